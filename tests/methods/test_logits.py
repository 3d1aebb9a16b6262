from __future__ import annotations

from typing import Any

import pytest
from logit_cases import STUDENT, TEACHER, cases, check, soft_of, value_and_gradient

from kdrun.methods.logits import Logits


@pytest.mark.parametrize("case", cases("logits"))
def test_the_loss_and_its_gradient_are_the_published_ones(case: dict[str, Any]) -> None:
    check(soft_of(Logits(logits_weight=1.0)), case)


def test_the_weight_multiplies_a_mean_over_samples_and_classes() -> None:
    pairs = zip(STUDENT.flatten().tolist(), TEACHER.flatten().tolist(), strict=True)
    expected = 0.3 * sum((a - b) ** 2 for a, b in pairs) / STUDENT.numel()
    assert value_and_gradient(soft_of(Logits(logits_weight=0.3)))[0] == pytest.approx(expected)
