"""Relational distillation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import case, check_finite
from torch import Tensor

from kdrun.methods import rkd
from kdrun.methods.rkd import RKD, angle_loss, distances


def loss(student: Tensor, teacher: Tensor, method: RKD | None = None) -> Tensor:
    return torch.stack(list((method or RKD()).relations(student, teacher).values())).sum()


@pytest.mark.parametrize(("name", "weights"), [("d=25,a=50", (25.0, 50.0)), ("d=0,a=1", (0.0, 1.0))])
def test_value_and_gradient_are_those_of_the_paper(name: str, weights: tuple[float, float]) -> None:
    example = case("rkd", name)
    method = RKD(distance_weight=weights[0], angle_weight=weights[1])
    example.check(loss(example.inputs["student"], example.inputs["teacher"].detach(), method))


def test_the_angles_are_those_of_numpy() -> None:
    student, teacher = torch.randn(5, 3).double(), torch.randn(5, 7).double()
    total = 0.0
    for middle in range(5):
        cosines = []
        for vectors in (student.numpy(), teacher.numpy()):
            edges = [vector - vectors[middle] for vector in vectors]
            units = np.array([edge / (np.linalg.norm(edge) or 1) for edge in edges])
            cosines.append(units @ units.T)
        total += (0.5 * (cosines[0] - cosines[1]) ** 2)[abs(cosines[0] - cosines[1]) < 1].sum()
        total += (abs(cosines[0] - cosines[1]) - 0.5)[abs(cosines[0] - cosines[1]) >= 1].sum()
    assert float(angle_loss(student, teacher)) == pytest.approx(total / 125, rel=1e-10)


def test_chunks_change_neither_value_nor_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(9, 4, dtype=torch.float64, requires_grad=True), torch.randn(9, 6).double()
    whole = angle_loss(student, teacher)
    monkeypatch.setattr(rkd, "CHUNK", 9 * 9 * 2)
    parts = angle_loss(student, teacher)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(*(torch.autograd.grad(each, student)[0] for each in (parts, whole)))


def test_no_tensor_of_a_large_batch_is_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    inner = rkd.angles
    monkeypatch.setattr(rkd, "angles", lambda *args: sizes.append((cosines := inner(*args)).numel()) or cosines)
    student = torch.randn(300, 8, requires_grad=True)
    angle_loss(student, torch.randn(300, 8)).backward()
    assert max(sizes) <= rkd.CHUNK < 300**3 == sum(sizes) / 4  # of student and teacher, forward and backward


def test_moved_turned_and_scaled_vectors_are_at_no_distance() -> None:
    teacher = torch.randn(6, 4, dtype=torch.float64)
    student = 3 * teacher @ torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q + 5
    assert float(loss(student, teacher)) < 1e-20


def test_distances_are_divided_by_the_mean_of_the_positive_ones() -> None:
    vectors = torch.tensor([[0.0], [0.0], [3.0]])
    assert torch.equal(distances(vectors), torch.tensor([[0, 0, 1.0], [0, 0, 1], [1, 1, 0]]))


def test_extreme_vectors_have_finite_values_and_gradients() -> None:
    check_finite(loss, 5, 4)


def test_a_few_samples_at_one_place_send_no_huge_gradient() -> None:
    student = torch.randn(5, 4)
    student[1:4] = student[0]
    student.requires_grad_()
    loss(student, torch.randn(5, 4)).backward()
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e3
