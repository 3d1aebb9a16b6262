"""A data set of images that are already tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import torch
from torch import Tensor

from kdrun.data.source import Source, Split, check
from kdrun.data.splits import set_aside
from kdrun.errors import InputError

Pair = tuple[Tensor, Tensor]


@dataclass(eq=False)
class Tensors(Source):
    """A data set made from tensors of images and labels.

    Args:
        images: (N, C, H, H) uint8 pixels; they are augmented and normalized when a batch is made.
        labels: (N,) class ids of any integer type, from 0.
        test: images and labels of the test split; if None, ``test_fraction`` of the images becomes the test split,
            always the same images, balanced over the classes.
        classes: number of classes; 0 means the largest label plus one.
        mean: mean per channel, of pixels in [0, 1]; measured on ``images`` if empty.
        std: standard deviation per channel, of pixels in [0, 1]; measured on ``images`` if empty.
        test_fraction: the part of the images that becomes the test split if ``test`` is None.

    Raises:
        InputError: if a shape or a type is not as above.
        ConfigError: if the numbers contradict each other.
    """

    images: Tensor
    labels: Tensor
    test: Pair | None = None
    channels: int = field(init=False)
    size: int = field(init=False)
    classes: Annotated[int, "[0, inf)"] = field(default=0, kw_only=True)
    mean: list[float] = field(default_factory=list, kw_only=True)
    std: list[float] = field(default_factory=list, kw_only=True)
    test_fraction: Annotated[float, "(0, 1)"] = field(default=0.2, kw_only=True)

    def __post_init__(self) -> None:
        split = _split(self.images, self.labels, "data")
        self.channels, self.size = split.images.shape[1:3]
        self.classes = self.classes or int(split.targets.max()) + 1
        mean, std = _statistics(split.images)
        self.mean, self.std = self.mean or mean, self.std or std
        super().__post_init__()

    def read(self) -> tuple[Split, Split]:
        whole = check(_split(self.images, self.labels, "data"), self, "data")
        if self.test is None:
            return set_aside(whole, round(whole.size * self.test_fraction), "tensors")
        return whole, check(_split(*self.test, "data.test"), self, "data.test")


def _split(images: object, labels: object, where: str) -> Split:
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        kinds = f"{type(images).__name__} and {type(labels).__name__}"
        raise InputError(where, f"images and labels are {kinds}, not tensors; convert them with torch.as_tensor")
    if images.dtype != torch.uint8:
        way_out = "convert pixels in [0, 1] with (255 * images).round().to(torch.uint8)"
        raise InputError(where, f"images are {str(images.dtype).removeprefix('torch.')}, not uint8; {way_out}")
    if images.ndim != 4 or images.shape[2] != images.shape[3] or not images.numel():
        raise InputError(where, f"images are {tuple(images.shape)}, not (N, C, H, H)")
    if labels.is_floating_point() or labels.shape != images.shape[:1]:
        kind = f"{tuple(labels.shape)} {str(labels.dtype).removeprefix('torch.')}"
        raise InputError(where, f"labels are {kind}, not ({len(images)},) class ids")
    return Split(images.cpu(), labels.cpu().long())


def _statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Returns mean and standard deviation per channel.

    Computed from a histogram of the 256 values, because the images as floats would take four times their memory.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.cpu().unbind(1)])
    mean = (counts * values).sum(1) / counts.sum(1)
    square = (counts * values**2).sum(1) / counts.sum(1)
    return mean.tolist(), (square - mean**2).clamp(min=0).sqrt().tolist()
