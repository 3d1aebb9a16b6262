"""Class attention transfer."""

from __future__ import annotations

import torch
from oracle import batch, case, check_finite
from torch import Tensor, nn

from kdrun.methods.catkd import CATKD, class_maps, distance
from kdrun.train.stage import Outputs


def connected(student: nn.Linear, teacher: nn.Linear, resolution: int = 2) -> CATKD:
    method = CATKD(resolution=resolution)
    method.student_tap, method.teacher_tap, method.classifiers = 0, 0, (student, teacher)
    return method


def test_value_and_gradient_are_those_of_the_paper() -> None:
    example = case("catkd")
    example.check(distance(example.inputs["student"], example.inputs["teacher"], 2))


def test_the_mean_of_the_class_maps_is_the_logits() -> None:
    maps, classifier = torch.randn(3, 5, 4, 4), nn.Linear(5, 7)
    torch.testing.assert_close(class_maps(maps, classifier).mean((2, 3)), classifier(maps.mean((2, 3))))


def test_the_students_classifier_learns_and_the_teachers_is_not_of_the_method() -> None:
    own, theirs = nn.Linear(3, 7), nn.Linear(5, 7)
    method = connected(own, theirs)
    maps = [torch.randn(2, 3, 4, 4)], [torch.randn(2, 5, 8, 8)]
    terms = method.loss(*(Outputs(torch.zeros(2, 7), each) for each in maps), batch(2))
    terms["catkd"].backward()
    assert own.weight.grad is not None
    assert own.weight.grad.any()
    assert list(method.parameters()) == []


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    layer = nn.Linear(3, 7)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        pair = (Outputs(torch.zeros(len(student), 7), [each]) for each in (student, teacher))
        return connected(layer, layer).loss(*pair, batch(len(student)))["catkd"]

    check_finite(loss, 4, 3, 4, 4)
