"""Probabilistic knowledge transfer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import check_finite
from torch import Tensor

from kdrun.methods.pkt import PKT, neighbours


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    return PKT().relations(student, teacher)["pkt"]


def by_numpy(student: np.ndarray, teacher: np.ndarray) -> float:
    tables = []
    for vectors in (student, teacher):
        units = [vector / (np.linalg.norm(vector) + 1e-7) for vector in vectors]
        rows = np.array([[(one @ other + 1) / 2 for other in units] for one in units])
        tables.append(rows / rows.sum(1, keepdims=True))
    return float(30000 * np.mean(tables[1] * np.log((tables[1] + 1e-7) / (tables[0] + 1e-7))))


def test_the_divergence_is_that_of_numpy() -> None:
    student, teacher = torch.randn(6, 3).double(), torch.randn(6, 5).double()
    assert float(pkt(student, teacher)) == pytest.approx(by_numpy(student.numpy(), teacher.numpy()), rel=1e-10)


def test_the_gradient_is_that_of_differences() -> None:
    student, teacher = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randn(4, 5).double()
    assert torch.autograd.gradcheck(lambda vectors: pkt(vectors, teacher), student)


def test_the_neighbours_of_a_sample_are_a_distribution() -> None:
    rows = neighbours(torch.randn(6, 3))
    torch.testing.assert_close(rows.sum(1), torch.ones(6))
    assert (rows >= 0).all()


def test_lengths_of_vectors_do_not_matter() -> None:
    teacher = torch.randn(6, 5, dtype=torch.float64)
    assert abs(float(pkt(teacher * torch.rand(6, 1).double().add(1), teacher))) < 1e-3


def test_extreme_vectors_have_finite_values_and_gradients() -> None:
    check_finite(pkt, 5, 4)
