"""SimKD."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import batch, case, check_finite
from safetensors.torch import load_file
from tiny import config, experiment
from torch import Tensor, nn

from kdrun.errors import ConfigError
from kdrun.methods.simkd import Reused, SimKD, projector
from kdrun.run.run import run
from kdrun.train.stage import Outputs


def loss(student: Tensor, teacher: Tensor) -> Tensor:
    torch.manual_seed(0)
    method = SimKD()
    method.student_tap = method.teacher_tap = 0
    method.projector = projector(student.shape[1], teacher.shape[1], 2).type(student.dtype)  # type: ignore[arg-type]
    return method.loss(Outputs(student, [student]), Outputs(teacher, [teacher]), batch(len(student)))["simkd"]


def test_value_gradient_and_logits_are_those_of_the_paper() -> None:
    example = case("simkd")
    student, teacher = example.inputs["student"], example.inputs["teacher"]
    method = SimKD()
    method.student_tap = method.teacher_tap = 0
    method.projector = projector(3, 4, 2).double()
    parts = {name.removeprefix("transfer."): value for name, value in example.weights.items() if "transfer" in name}
    method.projector.load_state_dict({**method.projector.state_dict(), **parts})
    example.check(method.loss(Outputs(student, [student]), Outputs(teacher, [teacher]), batch(4))["simkd"])

    class Student(nn.Module):
        def forward(self, images: Tensor) -> Outputs:
            return Outputs(images, [images])

    classifier = nn.Linear(4, 7).double()
    classifier.load_state_dict({name: example.weights[f"classifier.{name}"] for name in ("weight", "bias")})
    deployed = Reused(Student(), 0, method.projector, torch.Size((1, 4, 4, 4)), classifier)  # type: ignore[arg-type]
    example.close(deployed(student), example.expected["logits"])


def test_a_larger_map_of_the_student_is_pooled_first() -> None:
    student, teacher = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 4, 4)
    torch.testing.assert_close(loss(student, teacher), loss(nn.functional.avg_pool2d(student, 2), teacher))


NETS = ("student=resnet8", "teacher=resnet14", "method=simkd", "baseline=false")


def test_what_is_deployed_ends_in_the_teachers_classifier(tmp_path: Path) -> None:
    exp = experiment(tmp_path, *NETS)
    method = exp.method(config(tmp_path, *NETS)["method"])
    stage = next(method.stages(exp))
    deployed = stage.modules["deployed"].model
    assert deployed.classifier is exp.classifier(exp.teacher, "teacher")
    trained = {id(weight) for weight in stage.updates[0].params if weight.requires_grad}
    assert not trained & set(map(id, exp.classifier(exp.student, "student").parameters()))
    assert not trained & set(map(id, deployed.classifier.parameters()))
    assert set(map(id, method.projector.parameters())) <= trained


def test_the_students_own_classifier_is_not_stored(tmp_path: Path) -> None:
    words = [*NETS, "fast_dev_run=true", "dataset.train_count=80", f"out={tmp_path}"]
    run(config(tmp_path, *words), tmp_path / "run", words)
    names = load_file(tmp_path / "run" / "student.safetensors")
    assert {name for name in names if "fc." in name} == set()
    assert {"classifier.weight", "projector.0.weight", "student.model.conv1.weight"} <= set(names)


def test_a_factor_above_the_channels_is_refused(tmp_path: Path) -> None:
    exp = experiment(tmp_path, *NETS)
    with pytest.raises(ConfigError, match=r"^method.factor: 100 leaves the projector no channels of 64$"):
        SimKD(factor=100).begin(exp)


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    check_finite(loss, 4, 4, 2, 2)
