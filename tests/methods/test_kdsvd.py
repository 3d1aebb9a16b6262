"""Distillation by singular vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import batch, case, check_finite, outputs, shapes
from torch import Tensor

from kdrun.errors import ConfigError
from kdrun.methods.kdsvd import KDSVD, leading


def kdsvd(student: list[Tensor], teacher: list[Tensor], k: int = 1) -> Tensor:
    method = KDSVD(k=k)
    method.connect(shapes(*student), shapes(*teacher))
    return method.loss(outputs(*student), outputs(*teacher), batch(len(student[0])))["kdsvd"]


def test_value_and_gradient_are_those_of_the_benchmark() -> None:
    example = case("kdsvd")
    student, teacher = ([example.inputs[f"{role}{number}"] for number in (1, 2)] for role in "st")
    example.check(kdsvd(student, teacher))


@pytest.mark.parametrize("shape", [(2, 5, 4, 4), (2, 9, 2, 2)])
def test_vectors_and_their_gradient_are_those_of_an_svd(shape: tuple[int, ...]) -> None:
    maps = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    values, vectors = leading(maps, 3)
    _, expected_values, expected = torch.linalg.svd(maps.flatten(2).mT, full_matrices=False)
    torch.testing.assert_close(values, expected_values[:, :3])
    torch.testing.assert_close(vectors.abs(), expected.mT[:, :, :3].abs())
    weights = torch.randn(vectors.shape, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((each.square() * weights).sum(), maps)[0] for each in (vectors, expected.mT[:, :, :3])
    ]
    torch.testing.assert_close(*gradients)


def test_positive_signs_make_the_value_independent_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = ([torch.rand(2, 4, 3, 3).double(), torch.rand(2, 6, 2, 2).double()] for _ in range(2))
    svd, flips = torch.linalg.svd, torch.tensor([1.0, -1.0]).double()[:, None, None]
    values = []
    for signs in (1, flips):
        monkeypatch.setattr(
            torch.linalg, "svd", lambda *args, signs=signs, **named: flipped(svd(*args, **named), signs)
        )
        method = KDSVD(signs="positive")
        method.connect(shapes(*student), shapes(*teacher))
        values.append(method.loss(outputs(*student), outputs(*teacher), batch(2))["kdsvd"])
    torch.testing.assert_close(*values)


def flipped(parts: Any, signs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Another result of the same decomposition."""
    return parts[0] * signs, parts[1], parts[2] * signs


@pytest.mark.parametrize("k", [1, 3])
def test_extreme_maps_have_finite_values_and_gradients(k: int) -> None:
    other = torch.randn(4, 3, 2, 2)
    check_finite(lambda one, two: kdsvd([one, other[: len(one)]], [two, other[: len(one)]], k), 4, 6, 3, 3)


def test_unequal_channels_and_single_maps_are_refused() -> None:
    wide, thin = torch.Size((1, 8, 4, 4)), torch.Size((1, 4, 4, 4))
    with pytest.raises(ConfigError, match=r"^student: 4 channels face 8 of the teacher; this method needs as many$"):
        KDSVD().connect([thin, thin], [wide, wide])
    with pytest.raises(ConfigError, match=r"^student.taps: the method relates neighbouring maps; tap two or more$"):
        KDSVD().connect([wide], [wide])
