"""Attention transfer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import batch, case, check_finite, outputs, shapes
from torch import Tensor

from kdrun.errors import ConfigError
from kdrun.methods.at import AT, attention


def at(student: Tensor, teacher: Tensor, method: AT) -> Tensor:
    method.connect(shapes(student), shapes(teacher))
    return method.loss(outputs(student), outputs(teacher), batch(len(student)))["at"]


@pytest.mark.parametrize(("name", "form"), [("equal size", "mean_square"), ("paper equation 2", "norm")])
def test_value_and_gradient_are_those_of_the_paper(name: str, form: str) -> None:
    example = case("at", name)
    example.check(at(example.inputs["student"], example.inputs["teacher"], AT(form=form)), times=1000)


def test_an_attention_map_is_that_of_numpy() -> None:
    maps = torch.randn(3, 4, 2, 5)
    energy = (np.abs(maps.numpy()) ** 3).mean(1).reshape(3, 10)
    expected = energy / np.sqrt((energy**2).sum(1, keepdims=True))
    assert attention(maps, 3.0).numpy() == pytest.approx(expected, rel=1e-5)


def test_the_larger_map_is_pooled_and_stages_are_summed() -> None:
    student, teacher = torch.randn(3, 2, 4, 4), torch.randn(3, 5, 8, 8)
    pooled = teacher.view(3, 5, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(at(student, teacher, AT()), at(student, pooled, AT()))
    method = AT()
    method.connect(shapes(student, student), shapes(pooled, pooled))
    both = method.loss(outputs(student, student), outputs(pooled, pooled), batch(3))["at"]
    torch.testing.assert_close(both, 2 * at(student, pooled, AT()))


@pytest.mark.parametrize("form", ["mean_square", "norm"])
def test_extreme_maps_have_finite_values_and_gradients(form: str) -> None:
    check_finite(lambda student, teacher: at(student, teacher, AT(form=form)), 4, 3, 2, 2)


def test_a_map_without_a_partner_is_refused() -> None:
    shape = torch.Size((1, 2, 4, 4))
    with pytest.raises(ConfigError, match=r"^student.taps: 2 maps face 1 of the teacher; set student.taps or"):
        AT().connect([shape, shape], [shape])
    with pytest.raises(ConfigError, match=r"^teacher.taps: the method needs a map, but the teacher has none tapped"):
        AT().connect([shape], [torch.Size((1, 8))])
