"""The instance relationship graph."""

from __future__ import annotations

import pytest
import torch
from oracle import batch, case, check_finite, outputs, shapes
from torch import Tensor

from kdrun.errors import ConfigError
from kdrun.methods.irg import IRG, carried, distances


def irg(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """The sum of the three terms, of two maps, a vector and logits."""
    method = IRG()
    method.connect(shapes(*student[:2]), shapes(*teacher[:2]))
    method.vectors = (2, 2)
    pair = (outputs(*each[:3], logits=each[3]) for each in (student, teacher))
    terms = method.hints(*pair, batch(len(student[0])))
    return torch.stack(list(terms.values())).sum()


def test_value_and_gradient_are_those_of_public_code() -> None:
    example = case("irg")
    student, teacher = ([example.inputs[f"{role}{name}"] for name in ("m1", "m2", "h", "z")] for role in ("", "t"))
    example.check(irg(student, teacher))


def test_the_largest_distance_is_one() -> None:
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    torch.testing.assert_close(distances(vectors), torch.tensor([[0, 25, 1], [25, 0, 18], [1, 18, 0]]) / 25)


def test_neighbouring_channels_are_averaged() -> None:
    first, second = torch.randn(3, 2, 4, 4), torch.randn(3, 4, 2, 2)
    small = first.view(3, 2, 2, 2, 2, 2).mean((3, 5))
    squares = (small - torch.stack([second[:, :2].mean(1), second[:, 2:].mean(1)], 1)).square().sum((1, 2, 3))
    torch.testing.assert_close(carried(first, second), squares / squares.max())


def test_single_maps_and_channels_that_do_not_divide_are_refused() -> None:
    shape, other = torch.Size((1, 4, 4, 4)), torch.Size((1, 6, 4, 4))
    with pytest.raises(ConfigError, match=r"^student.taps: the method relates two neighbouring maps; tap two or more$"):
        IRG().connect([shape], [shape, shape])
    with pytest.raises(
        ConfigError, match=r"^teacher.taps: 6 channels are no multiple of the 4 of the neighbouring map"
    ):
        IRG().connect([shape, shape], [shape, other])


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return irg(*([each, each[:, :, :1, :1], each.mean((2, 3)), each.mean((2, 3))] for each in (student, teacher)))

    check_finite(loss, 4, 3, 2, 2)
