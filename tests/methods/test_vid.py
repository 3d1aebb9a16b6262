"""Variational information distillation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import batch, check_finite, outputs, shapes
from torch import Tensor

from kdrun.methods.vid import VID


def connected(student: Tensor, teacher: Tensor) -> VID:
    torch.manual_seed(0)
    method = VID()
    method.connect(shapes(student), shapes(teacher))
    return method


def vid(student: Tensor, teacher: Tensor) -> Tensor:
    method = connected(student, teacher).type(student.dtype)  # type: ignore[arg-type]
    return method.loss(outputs(student), outputs(teacher), batch(len(student)))["vid"]


def test_the_likelihood_is_that_of_numpy() -> None:
    student, teacher = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 5, 4, 4).double()
    weights = [
        weight.squeeze().detach().double().numpy()
        for weight in connected(student, teacher).likelihoods[0].mean.parameters()
    ]
    hidden = student.numpy()
    for number, weight in enumerate(weights):
        hidden = np.einsum("oc,nchw->nohw", weight, np.maximum(hidden, 0) if number else hidden)
    expected = np.mean(0.5 * ((hidden - teacher.numpy()) ** 2 / 5 + np.log(5)))
    assert vid(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_the_variance_of_each_channel_is_learned() -> None:
    student, teacher = torch.randn(8, 3, 2, 2), 2 * torch.randn(8, 5, 2, 2)
    method = connected(student, teacher)
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        method.loss(outputs(student), outputs(teacher), batch(8))["vid"].backward()
        optimizer.step()
    likelihood = method.likelihoods[0]
    errors = (likelihood.mean(student) - teacher).square().mean((0, 2, 3))
    variances = torch.nn.functional.softplus(likelihood.raw) + 1e-5
    torch.testing.assert_close(variances, errors, rtol=0.1, atol=0.02)


def test_a_variance_below_the_least_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^variance=0.1 is not above min_variance=0.2$"):
        VID(variance=0.1, min_variance=0.2)


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    check_finite(vid, 4, 3, 2, 2)
