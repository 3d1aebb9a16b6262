from __future__ import annotations

import numpy as np
import pytest
import torch
from logit_cases import STUDENT, TEACHER, batch, soft_of, summed, value_and_gradient

from kdrun.methods.kd import soft_loss
from kdrun.methods.ttm import TTM


def expected(power: float, weighted: bool) -> tuple[float, np.ndarray]:
    """By hand: the mean of u KL(q || s), and its gradient u (s - q) / N."""
    s, p = (np.exp(z.numpy()) / np.exp(z.numpy()).sum(1, keepdims=True) for z in (STUDENT, TEACHER))
    u = (p**power).sum(1, keepdims=True)
    q = p**power / u
    u = u if weighted else np.ones_like(u)
    return float((u * q * np.log(q / s)).sum() / 5), u * (s - q) / 5


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("power", [0.1, 0.2, 1.0])
def test_value_and_gradient_are_those_of_the_formula(power: float, weighted: bool) -> None:
    method = TTM(kd_weight=2.0, exponent=power, weighted=weighted)
    value, gradient = value_and_gradient(soft_of(method))
    loss, slope = expected(power, weighted)
    assert value == pytest.approx(2 * loss)
    np.testing.assert_allclose(gradient.numpy(), 2 * slope, rtol=1e-9)


def test_the_teacher_is_softened_as_by_a_temperature() -> None:
    term = summed(TTM(kd_weight=1.0, exponent=0.25).soft(STUDENT, TEACHER, batch()))
    torch.testing.assert_close(term, soft_loss(STUDENT, TEACHER / 4, 1.0))


def test_with_all_of_its_power_the_weights_are_all_one() -> None:
    one, other = (summed(TTM(exponent=1.0, weighted=flag).soft(STUDENT, TEACHER, batch())) for flag in (False, True))
    torch.testing.assert_close(one, other)


def test_doubt_weighs_more_than_certainty() -> None:
    sure, unsure = (torch.tensor([[scale, 0.0, -scale]]).double() for scale in (9.0, 0.1))
    ratios = []
    for teacher in (sure, unsure):
        one, other = (summed(TTM(weighted=flag).soft(STUDENT[:1, :3], teacher, batch())) for flag in (False, True))
        ratios.append(float(other / one))
    assert 1 < ratios[0] < ratios[1] <= 3**0.9 * (1 + 1e-9)
