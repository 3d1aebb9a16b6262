"""Activation boundaries."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import batch, case, check_finite, outputs, shapes
from tiny import Memory, config, experiment
from torch import Tensor, nn

from kdrun.errors import ConfigError
from kdrun.methods.ab import AB, boundary_distance, connector


def connected(student: list[Tensor], teacher: list[Tensor]) -> AB:
    torch.manual_seed(0)
    method = AB()
    method.before = {name: {tap: tap for tap in range(len(student))} for name in ("student", "teacher")}
    method.connect(shapes(*student), shapes(*teacher))
    return method.type(student[0].dtype)  # type: ignore[arg-type]


def ab(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    method = connected(student, teacher)
    return method.hints(outputs(*student), outputs(*teacher), batch(len(student[0])))["ab"]


def test_value_and_gradient_are_those_of_the_paper() -> None:
    example = case("ab")
    student, teacher = ([example.inputs[f"{role}{number}"] for number in (1, 2)] for role in "st")
    example.check(ab(student, teacher))


def test_neurons_beyond_the_margin_on_the_right_side_do_not_count() -> None:
    student, teacher = torch.tensor([-1.5, -0.5, 1.5, 0.25]), torch.tensor([-1.0, 0.0, 1.0, 0.1])
    assert boundary_distance(student, teacher, 1.0).item() == 0.5**2 + 0.75**2


def test_maps_of_one_shape_need_no_connector() -> None:
    shape = torch.Size((1, 3, 4, 4))
    assert isinstance(connector(shape, shape), nn.Identity)
    layers = connector(shape, torch.Size((1, 5, 8, 8)))
    assert [type(layer) for layer in layers.children()] == [nn.ConvTranspose2d, nn.BatchNorm2d]
    with pytest.raises(
        ConfigError, match=r"^student.taps: no convolution leads between maps of 4x4 and the teacher's 5"
    ):
        connector(shape, torch.Size((1, 5, 5, 5)))


def test_the_second_stage_learns_from_labels_without_the_teacher(tmp_path: Path) -> None:
    words = ("method=ab", "student=resnet8", "teacher=resnet14", "fast_dev_run=true")
    exp, memory = experiment(tmp_path, *words), Memory()
    scores, _ = exp.follow(exp.method(config(tmp_path, *words)["method"]), memory.journal)
    assert [stage.name for stage in memory.stages] == ["init", "distill"]
    assert [{key for key in row if key.startswith("loss/")} for row in memory.rows] == [{"loss/ab"}, {"loss/ce"}]
    assert scores["teacher_images"] == 2 * 32  # two batches of the first stage


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    check_finite(lambda student, teacher: ab([student], [teacher]), 4, 3, 2, 2)
