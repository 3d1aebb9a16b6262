"""Taps: the outputs of named submodules, beside a model's own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kdrun.train.stage import Outputs

Module = TypeVar("Module", bound=nn.Module)


class Tapped(nn.Module):
    """Wraps ``model`` so that a call returns ``Outputs``: its logits, and the outputs of its ``taps`` in order.

    Args:
        model: any module that maps images (N, C, H, W) to one tensor.
        taps: dotted names of its submodules, shallow to deep.

    Raises:
        AttributeError: if ``model`` has no submodule of a tap's name; the message lists what it has, where
            that is much only down to the depth of the tap.
    """

    def __init__(self, model: nn.Module, taps: Sequence[str] = ()) -> None:
        super().__init__()
        self.model = model
        self.taps = list(taps)
        self._heard: dict[int, Tensor] = {}
        self._last: int | None = None
        self._compiled: tuple[int, Any] | None = None
        self.asked = 0  # images shown to it so far
        named = dict(model.named_modules())
        for place, tap in enumerate(self.taps):
            if tap not in named:
                has = [name for name in named if name and (len(named) <= 20 or name.count(".") <= tap.count("."))]
                raise AttributeError(f"no submodule {tap!r} (has: {', '.join(has)})")
            named[tap].register_forward_hook(partial(self._hear, place))

    def _hear(self, place: int, module: nn.Module, args: Any, output: Tensor) -> None:
        self._heard[place] = output
        if place == self._last:
            raise _Enough

    def compile_batches(self, size: int, backend: str = "inductor") -> None:
        """Has batches of ``size`` images go through the compiled model, and all others through the model as it is.

        The compiled model is replayed as a CUDA graph: what small models wait for is the launching of their kernels.

        Args:
            size: of a training batch; each further size would be compiled anew.
            backend: of ``torch.compile``.
        """
        compiled = torch.compile(self.model, dynamic=False, backend=backend, mode="reduce-overhead")
        self._compiled = size, compiled  # in a tuple it is no submodule: every weight would have two names

    def forward(self, images: Tensor) -> Outputs:
        self.asked += len(images)
        if self._compiled and len(images) == self._compiled[0]:
            # Clones: a replayed graph writes its outputs where it wrote the last ones.
            logits = self._compiled[1](images).clone()
            features = [self._heard[place].clone() for place in range(len(self.taps))]
        else:
            logits = self.model(images)
            features = [self._heard[place] for place in range(len(self.taps))]
        self._heard.clear()  # a kept feature would keep its whole graph alive
        return Outputs(logits, features)

    def until(self, images: Tensor, tap: int) -> Tensor:
        """Returns the output of tap number ``tap`` (from 0); nothing behind it is computed, nor any state changed."""
        self.asked += len(images)
        self._last = tap
        try:
            with suppress(_Enough):
                self.model(images)
        finally:
            self._last = None
        feature = self._heard[tap]
        self._heard.clear()
        return feature


class _Enough(Exception):
    """Ends a forward pass at a tap."""


class Renormalized(nn.Module):
    """Shows ``model`` images as it was trained to see them, given images normalized for the student.

    Args:
        model: takes images normalized by ``mean`` and ``std``.
        given: (mean, std) per channel by which the images come normalized; pixels in [0, 1].
        wanted: (mean, std) per channel that ``model`` was trained with.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        model: Tapped,
        given: tuple[Sequence[float], Sequence[float]],
        wanted: tuple[Sequence[float], Sequence[float]],
    ) -> None:
        super().__init__()
        self.model = model
        (mean_given, std_given), (mean, std) = (
            [torch.tensor(values).view(1, -1, 1, 1) for values in pair] for pair in (given, wanted)
        )
        self.register_buffer("scale", std_given / std)
        self.register_buffer("shift", (mean_given - mean) / std)

    def forward(self, images: Tensor) -> Outputs:
        outputs: Outputs = self.model(self._seen(images))
        return outputs

    def until(self, images: Tensor, tap: int) -> Tensor:
        """Returns what ``model.until`` returns for the images as ``model`` sees them."""
        return self.model.until(self._seen(images), tap)

    def _seen(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images, self.scale)


def freeze(model: Module) -> Module:
    """Returns ``model`` in eval mode, with no parameter that wants a gradient or still holds one."""
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = None
    return model
