from __future__ import annotations

import numpy as np
import pytest
import torch
from logit_cases import LABELS, STUDENT, TEACHER, batch, soft_of, summed, value_and_gradient

from kdrun.methods.wsld import WSLD


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


def test_value_and_gradient_are_those_of_the_formula() -> None:
    z, v, y, t = STUDENT.numpy(), TEACHER.numpy(), LABELS.numpy(), 4.0
    own, other = (-np.log(softmax(x)[range(5), y]) for x in (z, v))
    weights = 1 - np.exp(-own / (other + 1e-7))
    s, q = softmax(z / t), softmax(v / t)
    value, gradient = value_and_gradient(soft_of(WSLD(kd_weight=3.0, temperature=t)))
    assert value == pytest.approx(3 * t**2 * np.mean(weights * -(q * np.log(s)).sum(1)))
    np.testing.assert_allclose(gradient.numpy(), 3 * t * weights[:, None] * (s - q) / 5, rtol=1e-9)


def test_a_student_that_is_sure_of_the_label_is_left_alone() -> None:
    sure = torch.zeros(5, 7, dtype=torch.float64).scatter(1, LABELS[:, None], 100.0)
    assert float(summed(WSLD().soft(sure, TEACHER, batch()))) == pytest.approx(0, abs=1e-9)


def test_a_teacher_that_is_sure_of_the_label_counts_whole() -> None:
    sure = torch.zeros(5, 7, dtype=torch.float64).scatter(1, LABELS[:, None], 100.0)
    whole = 2.25 * 16 * -(STUDENT / 4).log_softmax(1).gather(1, LABELS[:, None]).mean()
    torch.testing.assert_close(summed(WSLD().soft(STUDENT, sure, batch())), whole)
