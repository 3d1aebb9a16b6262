from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from logit_cases import LABELS, STUDENT, TEACHER, batch, cases, check, soft_of, summed, value_and_gradient

from kdrun.methods.dkd import DKD, without
from kdrun.methods.kd import soft_loss


def dkd(alpha: float, beta: float, temperature: float, **more: Any) -> DKD:
    return DKD(target_weight=alpha, non_target_weight=beta, temperature=temperature, **more)


@pytest.mark.parametrize("case", cases("dkd"))
def test_the_loss_and_its_gradient_are_the_published_ones(case: dict[str, Any]) -> None:
    values = case["arguments"]
    check(soft_of(dkd(values["alpha"], values["beta"], float(values["T"]))), case)


def test_kd_is_both_parts_the_second_by_the_teachers_doubt() -> None:
    """Section 3.1 of the paper: KD = TCKD + (1 - p_y) NCKD, per sample."""
    for row in range(len(LABELS)):
        student, teacher, label = STUDENT[row : row + 1], TEACHER[row : row + 1], LABELS[row : row + 1]
        terms = dkd(1.0, 1.0, 3.0).soft(student, teacher, batch(label))
        doubt = 1 - (teacher / 3).softmax(1)[0, label]
        both = terms["target"] + doubt * terms["non_target"]
        torch.testing.assert_close(both[0], 9 * soft_loss(student, teacher, 3.0))


@pytest.mark.parametrize("gap", [50.0, 400.0, 420.0, 1e4, 1e30])
def test_a_gap_of_any_size_pulls_by_the_teachers_doubt(gap: float) -> None:
    teacher, labels = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    student = torch.tensor([[gap, 0.0, -1.0]], requires_grad=True)
    loss = summed(dkd(1.0, 8.0, 4.0).soft(student, teacher, batch(labels)))
    (gradient,) = torch.autograd.grad(loss, student)
    shares = np.exp(np.array([2.0, 0.0, -1.0]) / 4)
    doubt, own = 1 - shares[0] / shares.sum(), np.exp(-gap / 4) * shares[1:].sum()
    assert loss.isfinite()
    assert gradient[0, 0].item() == pytest.approx(4 * (doubt - own / (1 + own)), rel=1e-4)


def test_both_weights_rise_over_the_warm_up() -> None:
    whole, warm = dkd(1.0, 8.0, 4.0, warmup_epochs=0), dkd(1.0, 8.0, 4.0)
    value = value_and_gradient(soft_of(whole))[0]
    assert value_and_gradient(soft_of(warm, epoch=1))[0] == pytest.approx(value / 20)
    assert value_and_gradient(soft_of(warm, epoch=20))[0] == pytest.approx(value)


def test_each_row_loses_its_own_label() -> None:
    rows = torch.arange(12.0).view(3, 4)
    assert without(rows, torch.tensor([0, 3, 1])).tolist() == [[1, 2, 3], [4, 5, 6], [8, 10, 11]]
