"""Knowledge review."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import batch, case, check_finite, outputs
from torch import Tensor

from kdrun.methods.reviewkd import Review, ReviewKD, context_loss

PARTS = {"conv1": "inner", "conv2": "outer", "att_conv": "attention"}


def connected(student: list[int], teacher: list[int], width: int = 512) -> ReviewKD:
    torch.manual_seed(0)
    method = ReviewKD(width=width)
    count = len(student) - 1
    method.widths, method.vectors = [student[-1], teacher[-1]], (count, count)
    method.before = {tap: tap for tap in range(count)}
    method.connect(*([torch.Size((1, each, 4, 4)) for each in own[:-1]] for own in (student, teacher)))
    return method


def test_value_and_gradient_are_those_of_the_paper() -> None:
    example = case("reviewkd")
    student, teacher = ([example.inputs[name] for name in (f"{r}1", f"{r}2", f"{r}3", f"pooled_{r}")] for r in "st")
    method, weights = connected([3, 4, 5, 5], [4, 5, 6, 6]).double(), {}
    for name, value in example.weights.items():
        number, part, rest = name.split(".", 2)
        weights[f"fusions.{number}.{PARTS[part]}.{rest}"] = value
    method.review.load_state_dict({**method.review.state_dict(), **weights})
    terms = method.loss(outputs(*student), outputs(*teacher), batch(4, epoch=10))
    example.check(terms["reviewkd"])


def test_the_context_loss_is_that_of_the_paper() -> None:
    example = case("reviewkd", "hierarchical context loss")
    example.check(context_loss(example.inputs["student"], example.inputs["teacher"]))


def test_maps_of_two_positions_have_one_level_more() -> None:
    student, teacher = torch.randn(3, 4, 2, 2).double(), torch.randn(3, 4, 2, 2).double()
    errors = [np.mean((student - teacher).numpy() ** 2), np.mean((student - teacher).mean((2, 3)).numpy() ** 2)]
    assert context_loss(student, teacher).item() == pytest.approx((errors[0] + errors[1] / 2) / 1.5, rel=1e-12)


@pytest.mark.parametrize(("epoch", "share"), [(1, 0.05), (10, 0.5), (20, 1.0), (30, 1.0)])
def test_the_weight_rises_over_the_first_epochs(epoch: int, share: float) -> None:
    method = connected([3, 5], [4, 6])
    features = [torch.randn(2, 3, 4, 4), torch.randn(2, 5)], [torch.randn(2, 4, 4, 4), torch.randn(2, 6)]
    terms = [
        method.loss(*(outputs(*each) for each in features), batch(2, number))["reviewkd"] for number in (epoch, 100)
    ]
    assert (terms[0] / terms[1]).item() == pytest.approx(share, rel=1e-5)


def test_the_inner_width_is_at_most_that_of_the_deepest_map() -> None:
    assert connected([3, 5], [4, 6]).review.fusions[0].inner[0].out_channels == 5
    assert connected([3, 5], [4, 6], width=2).review.fusions[0].inner[0].out_channels == 2


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        torch.manual_seed(0)
        review = Review([3, 3], [3, 3], 3)
        if len(student) == 1:
            review.eval()  # batch normalization cannot train on one position of one sample
        return torch.stack(review([student, student[:, :, :1, :1]], [teacher, teacher[:, :, :1, :1]])).sum()

    check_finite(loss, 4, 3, 4, 4)
