"""The flow of solution procedure."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import batch, check_finite, outputs, shapes
from torch import Tensor

from kdrun.errors import ConfigError
from kdrun.methods.fsp import FSP


def fsp(student: list[Tensor], teacher: list[Tensor], pool: str = "max") -> Tensor:
    method = FSP(pool=pool)
    method.connect(shapes(*student), shapes(*teacher))
    return method.hints(outputs(*student), outputs(*teacher), batch(len(student[0])))["fsp"]


def by_numpy(student: list[Tensor], teacher: list[Tensor], pool: str) -> float:
    total = 0.0
    for number in range(len(student) - 1):
        matrices = []
        for maps in (student, teacher):
            one, other = maps[number].numpy(), maps[number + 1].numpy()
            side = other.shape[2]
            cells = one.reshape(*one.shape[:2], side, one.shape[2] // side, side, one.shape[3] // side)
            small = cells.max((3, 5)) if pool == "max" else cells.mean((3, 5))
            matrices.append(np.einsum("nahw,nbhw->nab", small, other) / side**2)
        total += np.mean((matrices[0] - matrices[1]) ** 2)
    return total


@pytest.mark.parametrize("pool", ["max", "mean"])
def test_the_distance_is_that_of_numpy(pool: str) -> None:
    student, teacher = (
        [torch.randn(3, 2, 8, 8).double(), torch.randn(3, 4, 4, 4).double(), torch.randn(3, 5, 2, 2).double()]
        for _ in range(2)
    )
    assert fsp(student, teacher, pool).item() == pytest.approx(by_numpy(student, teacher, pool), rel=1e-10)


def test_the_gradient_is_that_of_differences() -> None:
    student = [torch.randn(2, 2, 4, 4).double().requires_grad_(), torch.randn(2, 3, 2, 2).double().requires_grad_()]
    teacher = [torch.randn(2, 2, 4, 4).double(), torch.randn(2, 3, 2, 2).double()]
    assert torch.autograd.gradcheck(lambda *maps: fsp(list(maps), teacher), student)


def test_unequal_channels_and_single_maps_are_refused() -> None:
    wide, thin = torch.Size((1, 8, 4, 4)), torch.Size((1, 4, 4, 4))
    with pytest.raises(ConfigError, match=r"^student: 4 channels face 8 of the teacher; this method needs as many$"):
        FSP().connect([thin, thin], [wide, wide])
    with pytest.raises(ConfigError, match=r"^student.taps: the method relates neighbouring maps; tap two or more$"):
        FSP().connect([wide], [wide])


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    check_finite(lambda student, teacher: fsp([student, student], [teacher, teacher]), 4, 3, 2, 2)
