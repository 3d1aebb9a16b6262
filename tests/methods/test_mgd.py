"""Masked generative distillation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracle import batch, check_finite, outputs, shapes
from torch import Tensor

from kdrun.errors import ConfigError
from kdrun.methods.mgd import MGD


def connected(student: Tensor, teacher: Tensor, mask: float = 0.15) -> MGD:
    torch.manual_seed(0)
    method = MGD(mask=mask)
    method.connect(shapes(student), shapes(teacher))
    return method.type(student.dtype)  # type: ignore[arg-type]


def mgd(student: Tensor, teacher: Tensor, mask: float = 0.15) -> Tensor:
    method = connected(student, teacher, mask)
    return method.loss(outputs(student), outputs(teacher), batch(len(student)))["mgd"]


def conv(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A convolution that keeps the size, by einsum."""
    side = weight.shape[2] // 2
    patches = F.pad(maps, (side, side, side, side)).unfold(2, weight.shape[2], 1).unfold(3, weight.shape[3], 1)
    return torch.einsum("ncijab,ocab->noij", patches, weight) + bias[:, None, None]


def test_without_a_mask_it_is_the_error_of_three_convolutions() -> None:
    student, teacher = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 5, 4, 4).double()
    method = connected(student, teacher)
    hidden = conv(student, method.align.weight, method.align.bias)
    hidden = conv(hidden, method.generation[0].weight, method.generation[0].bias).relu()
    generated = conv(hidden, method.generation[2].weight, method.generation[2].bias)
    torch.testing.assert_close(mgd(student, teacher, 0.0), 0.0012 * (generated - teacher).square().sum() / 2)


def test_whole_channels_are_masked_at_the_rate_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    student, masked = torch.ones(100, 20, 3, 3), []
    method = connected(student, student, 0.15)
    monkeypatch.setattr(method, "error", lambda maps, teacher: masked.append(maps) or maps.sum())
    method.loss(outputs(student), outputs(student), batch(100))
    per_channel = masked[0].mean((2, 3))
    assert set(per_channel.unique().tolist()) == {0.0, 1.0}
    assert 1 - per_channel.mean().item() == pytest.approx(0.15, abs=0.03)


def test_equal_channels_need_no_alignment() -> None:
    assert not list(connected(torch.zeros(1, 5, 4, 4), torch.zeros(1, 5, 4, 4)).align.parameters())


def test_maps_of_two_sizes_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"^student.taps: the last maps are 4x4 and the teacher's 8x8; the method need"
    ):
        connected(torch.zeros(1, 5, 4, 4), torch.zeros(1, 5, 8, 8))


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    check_finite(mgd, 4, 3, 2, 2)
