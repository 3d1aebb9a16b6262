"""The overhaul of feature distillation."""

from __future__ import annotations

import pytest
import torch
from oracle import case, check_finite, shapes
from torch import Tensor, nn

from kdrun.errors import ConfigError
from kdrun.methods.ofd import OFD, margins, partial_distance


def connected(student: list[Tensor], teacher: list[Tensor], norms: list[nn.Module]) -> OFD:
    torch.manual_seed(0)
    method = OFD()
    method.before = {name: {tap: tap for tap in range(len(student))} for name in ("student", "teacher")}
    method.norms = dict(enumerate(norms))
    method.connect(shapes(*student), shapes(*teacher))
    return method.type(student[0].dtype)  # type: ignore[arg-type]


def test_value_gradient_and_margins_are_those_of_the_paper() -> None:
    example = case("ofd")
    student, teacher = ([example.inputs[f"{role}{number}"] for number in (1, 2)] for role in "st")
    norms = [nn.BatchNorm2d(channels).double() for channels in (4, 6)]
    with torch.no_grad():
        for number, norm in enumerate(norms):
            for name in ("weight", "bias"):
                getattr(norm, name).copy_(example.weights[f"teacher.bn{number}.{name}"])
    method = connected(student, teacher, norms)
    prefix = "connectors.connectors."
    weights = {
        f"connectors.{name.removeprefix(prefix)}": value
        for name, value in example.weights.items()
        if name.startswith(prefix)
    }
    method.load_state_dict({**method.state_dict(), **weights})
    for number, expected in enumerate(example.expected["margins"]):
        example.close(getattr(method, f"margin{number}").flatten(), expected)
    example.check(method.distance(tuple(student), tuple(teacher)))


def test_a_margin_is_the_mean_of_the_negative_values() -> None:
    norm = nn.BatchNorm2d(3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        norm.bias.copy_(torch.tensor([0.5, -1.0, 3.0]))
    values = torch.randn(10**6, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2]) + norm.bias[:2]
    expected = [column[column < 0].mean().item() for column in values.T]
    assert margins(norm).flatten().tolist() == pytest.approx([*expected, -1.5], abs=0.01)


def test_what_is_below_the_margin_in_both_does_not_count() -> None:
    student, teacher = torch.tensor([-9.0, -0.5, 1.0, -2.0]), torch.tensor([-2.0, -2.0, 3.0, 0.5])
    expected = 0 + 0.25 * 0 + (-0.5 + 1) ** 2 + (1 - 3) ** 2 + (-2 - 0.5) ** 2
    assert partial_distance(student, teacher, torch.tensor(-1.0)).item() == expected


def test_a_teacher_without_batch_normalization_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^teacher.taps: a tapped map has no batch normalization before it; the"):
        margins(None)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_extreme_maps_have_finite_values_and_gradients(weight: float) -> None:
    norm = nn.BatchNorm2d(3)
    nn.init.constant_(norm.weight, weight)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return connected([student], [teacher], [norm]).distance((student,), (teacher,))

    check_finite(loss, 4, 3, 2, 2)
