"""Taps: the outputs of named submodules, returned beside the model's own output."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from kdrun.errors import ConfigError
from kdrun.train.stage import Outputs

Module = TypeVar("Module", bound=nn.Module)
Normalization = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation per channel, of pixels in [0, 1]."""


class Tapped(nn.Module):
    """Wraps ``model`` so that a call returns ``Outputs``: its logits, and the outputs of its ``taps`` in order.

    Args:
        model: any module that maps images (N, C, H, W) to one tensor.
        taps: dotted names of its submodules, from shallow to deep.

    Raises:
        AttributeError: if ``model`` has no submodule of a tap's name. The message lists the submodules; if there are
            many, only those no deeper than the tap.
        ConfigError: on a call, if a module after a tap overwrites the tap's output in place: the feature would be
            wrong, without an error.
    """

    def __init__(self, model: nn.Module, taps: Sequence[str] = ()) -> None:
        super().__init__()
        self.model = model
        self.taps = list(taps)
        self._captured: dict[int, tuple[Tensor, int]] = {}  # output of each tap, and its version at capture
        self._last: int | None = None
        self._compiled: tuple[int, Any] | None = None
        self.image_count = 0  # images whose outputs were asked for so far
        self.run_count = 0  # images that the model was run on so far; a teacher table answers for the others
        modules = dict(model.named_modules())
        for number, tap in enumerate(self.taps):
            if tap not in modules:
                names = [name for name in modules if name]
                near = [name for name in names if len(names) < 20 or name.count(".") <= tap.count(".")]
                raise AttributeError(f"no submodule {tap!r} (has: {', '.join(near)})")
            modules[tap].register_forward_hook(partial(self._capture, number))

    def _capture(self, number: int, module: nn.Module, args: Any, output: Tensor) -> None:
        self._captured[number] = output, output._version
        if number == self._last:
            raise _Enough

    def compile_batches(self, size: int, backend: str = "inductor") -> None:
        """Runs batches of ``size`` images through the compiled model, and all others through the uncompiled one.

        The compiled model is replayed as a CUDA graph, because small models spend most time launching their kernels.

        Args:
            size: images in a training batch; every other size would need a compilation of its own.
            backend: the backend of ``torch.compile``.
        """
        compiled = torch.compile(self.model, dynamic=False, backend=backend, mode="reduce-overhead")
        self._compiled = size, compiled  # in a tuple, or it would be a submodule and every weight have two names

    def count(self, requested: int, ran: int) -> None:
        """Adds to the images that were requested, and to those that the model was run on."""
        self.image_count += requested
        self.run_count += ran

    def forward(self, images: Tensor) -> Outputs:
        self.count(len(images), len(images))
        if self._compiled and len(images) == self._compiled[0]:
            # clones, because a replayed graph overwrites its previous outputs
            logits = self._compiled[1](images).clone()
            features = [self._captured[number][0].clone() for number in range(len(self.taps))]
        else:
            logits = self.model(images)
            features = [self._intact(number) for number in range(len(self.taps))]
        self._captured.clear()  # a stored feature would keep its whole graph in memory
        return Outputs(logits, features)

    def _intact(self, number: int) -> Tensor:
        feature, version = self._captured[number]
        if feature._version != version:
            what = f"{self.taps[number]!r} is overwritten by a module behind it that works in place"
            raise ConfigError("taps", f"{what}; tap that one, or the block around both")
        return feature

    def until(self, images: Tensor, tap: int) -> Tensor:
        """Returns the output of tap number ``tap`` (from 0); the layers after it are not run and keep their state."""
        self.count(len(images), len(images))
        self._last = tap
        try:
            with suppress(_Enough):
                self.model(images)
        finally:
            self._last = None
        feature, _ = self._captured[tap]
        self._captured.clear()
        return feature


class _Enough(Exception):
    """Ends a forward pass at a tap."""


class Renormalized(nn.Module):
    """Wraps ``model``, trained with another normalization than the student, so that it takes the student's images.

    Args:
        model: the model; it takes images normalized by ``wanted``.
        come: the normalization of the images that are passed in.
        wanted: the normalization that ``model`` was trained with.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: Tapped, come: Normalization, wanted: Normalization) -> None:
        super().__init__()
        self.model = model
        (come_mean, come_std), (mean, std) = (
            [torch.tensor(values).view(1, -1, 1, 1) for values in pair] for pair in (come, wanted)
        )
        self.register_buffer("scale", come_std / std)
        self.register_buffer("shift", (come_mean - mean) / std)

    def forward(self, images: Tensor) -> Outputs:
        outputs: Outputs = self.model(self._renormalized(images))
        return outputs

    def until(self, images: Tensor, tap: int) -> Tensor:
        """Returns the output of ``model.until`` for the images, renormalized."""
        return self.model.until(self._renormalized(images), tap)

    def _renormalized(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images, self.scale)


def freeze(model: Module) -> Module:
    """Returns ``model`` in eval mode; no parameter requires a gradient or still has one."""
    model.eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = None
    return model


def classifier(model: nn.Module, images: Tensor) -> nn.Linear | None:
    """Returns the linear layer whose output is the logits of ``model``; None if its last linear layer is not.

    Args:
        model: a model that returns ``Outputs``; it is left in eval mode.
        images: (N, C, H, W), any images that it takes.
    """
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linears:
        return None
    outputs: list[Tensor] = []
    hook = linears[-1].register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        logits = model.eval()(images).logits
    hook.remove()
    return linears[-1] if outputs and torch.equal(outputs[-1], logits) else None
