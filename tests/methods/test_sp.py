"""Similarity-preserving distillation."""

from __future__ import annotations

import torch
from oracle import batch, case, check_finite, outputs, shapes
from torch import Tensor

from kdrun.methods.sp import SP, similarities


def sp(student: Tensor, teacher: Tensor) -> Tensor:
    method = SP()
    method.connect(shapes(student), shapes(teacher))
    return method.loss(outputs(student), outputs(teacher), batch(len(student)))["sp"]


def test_value_and_gradient_are_those_of_the_paper() -> None:
    example = case("sp")
    example.check(sp(example.inputs["student"], example.inputs["teacher"]), times=3000)


def test_rows_are_of_euclidean_length_one() -> None:
    torch.testing.assert_close(similarities(torch.randn(5, 3, 2, 2)).square().sum(1), torch.ones(5))


def test_a_scaled_or_rotated_student_is_at_no_distance() -> None:
    teacher = torch.randn(5, 4, 2, 2, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64)).Q
    student = 7 * (teacher.flatten(1) @ rotation).view_as(teacher)
    assert float(sp(student, teacher)) < 1e-20


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    check_finite(sp, 4, 3, 2, 2)
