from __future__ import annotations

from typing import Any

import pytest
import torch
from logit_cases import STUDENT, TEACHER, batch, cases, check, soft_of, summed

from kdrun.methods.kd import soft_loss
from kdrun.methods.normkd import NormKD


@pytest.mark.parametrize("case", cases("normkd"))
def test_the_loss_and_its_gradient_are_the_published_ones(case: dict[str, Any]) -> None:
    check(soft_of(NormKD(kd_weight=1.0, spread=float(case["arguments"]["t_norm"]))), case)


def test_each_sample_is_kd_at_temperatures_of_its_own() -> None:
    for row in range(5):
        student, teacher = STUDENT[row : row + 1], TEACHER[row : row + 1]
        own, other = (3 * float(logits.std()) for logits in (student, teacher))
        expected = 0.9 * other**2 * soft_loss(student / own, teacher / other, 1.0)
        one = summed(NormKD(spread=3.0).soft(student, teacher, batch(torch.tensor([0]))))
        torch.testing.assert_close(one, expected)


def test_a_student_whose_logits_are_larger_by_a_factor_is_as_good() -> None:
    shifted = 7 * TEACHER + 3
    assert float(summed(NormKD().soft(shifted, TEACHER, batch()))) == pytest.approx(0, abs=1e-12)
