"""Correlation congruence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import case, check_finite
from torch import Tensor

from kdrun.methods.cc import CC, kernel, neighbour_products


def cc(student: Tensor, teacher: Tensor) -> Tensor:
    return CC().relations(student, teacher)["cc"]


def delta(student: Tensor, teacher: Tensor) -> Tensor:
    torch.manual_seed(0)
    method = CC(form="delta", width=3)
    method.embed(student.shape[1], teacher.shape[1])
    return method.relations(student, teacher)["cc"]


def test_value_and_gradient_are_those_of_the_paper() -> None:
    example = case("cc", "paper: Taylor of the Gaussian RBF")
    example.check(cc(example.inputs["student"], example.inputs["teacher"]), times=100)


def test_neighbours_are_multiplied_as_in_the_benchmark() -> None:
    example = case("cc", 0)
    example.check(neighbour_products(example.inputs["student"], example.inputs["teacher"]))


def test_a_long_series_is_the_gaussian_kernel() -> None:
    vectors = torch.randn(5, 3).double()
    units = (vectors / vectors.norm(dim=1, keepdim=True)).numpy()
    expected = [[np.exp(-0.4 * ((one - other) ** 2).sum()) for other in units] for one in units]
    assert kernel(vectors, 0.4, 20).numpy() == pytest.approx(np.array(expected), rel=1e-9)


def test_both_linear_layers_learn() -> None:
    torch.manual_seed(0)
    method = CC(form="delta", width=3)
    method.embed(4, 6)
    method.relations(torch.randn(5, 4), torch.randn(5, 6))["cc"].backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in method.parameters())


@pytest.mark.parametrize("loss", [cc, delta])
def test_extreme_vectors_have_finite_values_and_gradients(loss: object) -> None:
    check_finite(loss, 5, 4)  # type: ignore[arg-type]
