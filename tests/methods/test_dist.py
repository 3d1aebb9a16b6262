from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from logit_cases import STUDENT, TEACHER, batch, cases, check, soft_of, value_and_gradient

from kdrun.methods.dist import DIST


@pytest.mark.parametrize("case", cases("dist"))
def test_the_loss_and_its_gradient_are_the_published_ones(case: dict[str, Any]) -> None:
    values = case["arguments"]
    method = DIST(
        inter_weight=float(values["beta"]), intra_weight=float(values["gamma"]), temperature=float(values["tau"])
    )
    check(soft_of(method), case)


def test_rows_are_correlated_over_classes_columns_over_samples() -> None:
    own, other = ((logits / 2).softmax(1).numpy() for logits in (STUDENT, TEACHER))
    rows = np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(own, other, strict=True)])
    columns = np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(own.T, other.T, strict=True)])
    terms = DIST(inter_weight=3.0, intra_weight=0.5, temperature=2.0, t_squared=False).soft(STUDENT, TEACHER, batch())
    assert float(terms["inter"]) == pytest.approx(3 * (1 - rows), rel=1e-5)
    assert float(terms["intra"]) == pytest.approx(0.5 * (1 - columns), rel=1e-5)


def test_the_factor_t_squared_can_be_left_out() -> None:
    plain, whole = (value_and_gradient(soft_of(DIST(t_squared=squared)))[0] for squared in (False, True))
    assert whole == pytest.approx(16 * plain)


def test_probabilities_on_a_line_with_the_teachers_cost_nothing() -> None:
    student = (0.3 * TEACHER.softmax(1) + 0.1).log()
    terms = DIST(temperature=1.0).soft(student, TEACHER, batch())
    assert float(terms["inter"]) == pytest.approx(0, abs=1e-6)


def test_of_one_sample_the_term_of_columns_is_a_constant() -> None:
    student = STUDENT[:1].clone().requires_grad_()
    term = DIST().soft(student, TEACHER[:1], batch(torch.tensor([0])))["intra"]
    (gradient,) = torch.autograd.grad(term, student)
    assert float(term.detach()) == 2 * 16
    assert not gradient.any()
