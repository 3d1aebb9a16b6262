"""Neuron selectivity transfer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import batch, case, check_finite, outputs, shapes
from torch import Tensor

from kdrun.methods.nst import NST


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    method = NST()
    method.connect(shapes(student), shapes(teacher))
    return method.loss(outputs(student), outputs(teacher), batch(len(student)))["nst"]


def test_value_and_gradient_are_those_of_the_paper() -> None:
    example = case("nst")
    example.check(nst(example.inputs["student"], example.inputs["teacher"]), times=50)


def test_the_discrepancy_is_that_of_numpy() -> None:
    student, teacher = torch.randn(2, 3, 2, 2), torch.randn(2, 5, 4, 4)
    small = teacher.view(2, 5, 2, 2, 2, 2).mean((3, 5))
    total = 0.0
    for maps in zip(student.numpy(), small.numpy(), strict=True):
        x, y = (
            each.reshape(len(each), 4) / np.linalg.norm(each.reshape(len(each), 4), axis=1)[:, None] for each in maps
        )
        pairs = ((x, x, 1), (y, y, 1), (x, y, -2))
        total += sum(sign * np.mean([(a @ b) ** 2 for a in one for b in two]) for one, two, sign in pairs)
    assert float(nst(student, teacher)) == pytest.approx(50 * total / 2, rel=1e-4)


def test_permuted_channels_are_at_no_distance() -> None:
    teacher = torch.randn(4, 5, 3, 3, dtype=torch.float64)
    assert abs(float(nst(teacher[:, [3, 0, 4, 1, 2]], teacher))) < 1e-12


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    check_finite(nst, 4, 3, 2, 2)
