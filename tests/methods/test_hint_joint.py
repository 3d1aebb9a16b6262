"""The hint in one stage, with the connector of the CRD benchmark."""

from __future__ import annotations

import pytest
import torch
from oracle import batch, case, check_finite, outputs, shapes
from torch import Tensor, nn

from kdrun.errors import ConfigError
from kdrun.methods.hint_joint import HintJoint, bn_relu


def connected(student: Tensor, teacher: Tensor) -> HintJoint:
    torch.manual_seed(0)
    method = HintJoint(connector="bn_relu", hint_weight=100.0)
    method.connect(shapes(student), shapes(teacher))
    return method.type(student.dtype)  # type: ignore[arg-type]


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    method = connected(student, teacher)
    return method.loss(outputs(student), outputs(teacher), batch(len(student)))["hint"]


def test_value_and_gradient_are_those_of_the_benchmark() -> None:
    example = case("hint")
    student, teacher = example.inputs["student"], example.inputs["teacher"]
    method = connected(student, teacher)
    parts = dict(zip(("conv", "bn"), method.regressor, strict=False))
    with torch.no_grad():
        for name, value in example.weights.items():
            part, _, weight = name.partition(".")
            getattr(parts[part], weight).copy_(value)
    example.check(method.loss(outputs(student), outputs(teacher), batch(4))["hint"], times=100)


def test_the_error_alone_is_that_of_the_benchmark() -> None:
    example = case("hint", "bare MSE")
    method = connected(example.inputs["student"], example.inputs["teacher"])
    method.regressor = nn.Sequential()
    terms = method.loss(outputs(example.inputs["student"]), outputs(example.inputs["teacher"]), batch(4))
    example.check(terms["hint"], times=100)


KERNELS = [((3, 8, 8), 4, (1, 1)), ((3, 16, 16), 4, (3, 3)), ((3, 4, 4), 4, (4, 4)), ((3, 10, 9), 4, (3, 2))]


@pytest.mark.parametrize(("shape", "channels", "kernel"), KERNELS)
def test_the_kernel_leads_to_the_teachers_size(shape: tuple[int, ...], channels: int, kernel: tuple[int, int]) -> None:
    layers = bn_relu(torch.Size((1, *shape)), torch.Size((1, channels, 8, 8)))
    assert layers[0].kernel_size == kernel
    assert layers(torch.randn(2, *shape)).shape == (2, channels, 8, 8)


@pytest.mark.parametrize("shape", [(3, 3, 3), (3, 16, 8), (3,)])
def test_maps_that_no_convolution_matches_are_refused(shape: tuple[int, ...]) -> None:
    size = "x".join(map(str, shape))
    what = f"^method.guided: the student's {size} and the teacher's 4x8x8 are not maps whose sizes a convolution can"
    with pytest.raises(ConfigError, match=what):
        HintJoint(connector="bn_relu").connect([torch.Size((1, *shape))], [torch.Size((1, 4, 8, 8))])


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    check_finite(hint, 4, 3, 2, 2)
