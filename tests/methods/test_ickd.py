"""Inter-channel correlation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import batch, check_finite, outputs, shapes
from torch import Tensor, nn

from kdrun.methods.ickd import ICKD


def connected(student: Tensor, teacher: Tensor) -> ICKD:
    torch.manual_seed(0)
    method = ICKD()
    method.connect(shapes(student), shapes(teacher))
    return method.type(student.dtype)  # type: ignore[arg-type]


def ickd(student: Tensor, teacher: Tensor) -> Tensor:
    return connected(student, teacher).loss(outputs(student), outputs(teacher), batch(len(student)))["ickd"]


def by_numpy(student: np.ndarray, teacher: np.ndarray) -> float:
    total = 0.0
    for pair in zip(student, teacher, strict=True):
        grams = []
        for maps in pair:
            flat = maps.reshape(len(maps), -1)
            gram = flat @ flat.T
            grams.append(gram / np.linalg.norm(gram, axis=1, keepdims=True))
        total += ((grams[0] - grams[1]) ** 2).sum() / len(grams[0])
    return 2.5 * total / len(student)


def test_the_distance_is_that_of_numpy() -> None:
    student, teacher = torch.randn(3, 4, 2, 2).double(), torch.randn(3, 5, 4, 4).double()
    mapped = connected(student, teacher).connector(student).detach()
    assert ickd(student, teacher).item() == pytest.approx(by_numpy(mapped.numpy(), teacher.numpy()), rel=1e-9)


def test_the_gradient_is_that_of_differences() -> None:
    student, teacher = torch.randn(3, 2, 2, 2).double().requires_grad_(), torch.randn(3, 3, 2, 2).double()
    assert torch.autograd.gradcheck(lambda maps: ickd(maps, teacher), student)


def test_turned_positions_are_at_no_distance() -> None:
    teacher = torch.randn(3, 5, 2, 2, dtype=torch.float64)
    method = connected(teacher, teacher)
    method.connector = nn.Sequential()
    terms = method.loss(outputs(teacher.flip(2, 3)), outputs(teacher), batch(3))
    assert float(terms["ickd"]) < 1e-20


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    check_finite(ickd, 4, 3, 2, 2)
