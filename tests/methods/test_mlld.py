from __future__ import annotations

import numpy as np
import pytest
import torch
from logit_cases import STUDENT, TABLE, TEACHER, batch, check, summed

from kdrun.methods.mlld import MLLD, Mask, weights

CASES = {case.partition(" ")[0]: values for case, values in TABLE["cases"]["mlld"].items()}


@pytest.mark.parametrize("level", ["instance", "batch"])
def test_the_levels_and_their_gradients_are_the_published_ones(level: str) -> None:
    method = MLLD(kd_weight=1.0, temperatures=[float(CASES[level]["arguments"]["T"])], mask="none")
    check(lambda student: method.soft(student, TEACHER, batch())[level], CASES[level])


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(1, keepdims=True)


@pytest.mark.parametrize("mask", ["samples", "share", "none"])
def test_every_level_is_the_formula_over_rows_of_least_confidence(mask: Mask) -> None:
    z, v = STUDENT.numpy(), TEACHER.numpy()
    sure = softmax(v)
    rows, columns = ((each <= np.percentile(each, 50)).astype(float) for each in (sure.max(1), sure.sum(0)))
    if mask != "samples":
        rows, columns = (np.full_like(each, each.mean() if mask == "share" else 1) for each in (rows, columns))
    expected = np.zeros(3)
    for t in (4.0, 2.0):
        s, q = softmax(z / t), softmax(v / t)
        expected[0] += t**2 * np.mean(rows * (q * np.log(q / s)).sum(1))
        expected[1] += (columns * ((q.T @ q - s.T @ s) ** 2).sum(1)).sum() / 7
        expected[2] += (rows * ((q @ q.T - s @ s.T) ** 2).sum(1)).sum() / 5
    terms = MLLD(kd_weight=0.5, temperatures=[4.0, 2.0], mask=mask).soft(STUDENT, TEACHER, batch())
    assert [float(terms[name]) for name in ("instance", "class", "batch")] == pytest.approx(list(0.5 * expected))


def test_half_of_the_rows_count_those_of_least_confidence() -> None:
    assert weights(torch.tensor([0.9, 0.2, 0.5, 0.7]), "samples").tolist() == [0, 1, 1, 0]
    assert weights(torch.tensor([0.9, 0.2, 0.5, 0.7]), "share").tolist() == [0.5] * 4


def test_temperatures_are_added_up() -> None:
    one, two, both = ([4.0], [2.0], [4.0, 2.0])
    parts = [summed(MLLD(temperatures=each).soft(STUDENT, TEACHER, batch())) for each in (one, two, both)]
    torch.testing.assert_close(parts[0] + parts[1], parts[2])
