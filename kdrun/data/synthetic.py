"""Generated images of any shape and number, for which a model can learn the classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.data.source import Source, Split, Task
from kdrun.train.runtime import derive


@dataclass(kw_only=True)
class Synthetic(Source):
    """One smooth random pattern per class; each image is the pattern of its class plus noise.

    Args:
        train_count: number of training images, including the validation images.
        test_count: number of test images.
        noise: standard deviation of the noise per pixel, in the units of the patterns (near 1); more noise is harder.
        seed: the seed of the patterns and the images.
    """

    channels: Annotated[int, "[1, inf)"] = 1
    size: Annotated[int, "[1, inf)"] = 12
    classes: Annotated[int, "[2, inf)"] = 10
    mean: list[float] = field(default_factory=lambda: [0.5])
    std: list[float] = field(default_factory=lambda: [0.25])
    train_count: Annotated[int, "[2, inf)"] = 400
    test_count: Annotated[int, "[1, inf)"] = 200
    noise: Annotated[float, "[0, inf)"] = 1.0
    seed: Annotated[int, "[0, inf)"] = 0

    def read(self) -> tuple[Split, Split]:
        patterns = _patterns(self.classes, self.channels, self.native, self.seed, "patterns")
        return self._draw(patterns, self.train_count, "train"), self._draw(patterns, self.test_count, "test")

    def _draw(self, patterns: Tensor, count: int, part: str) -> Split:
        generator = torch.Generator().manual_seed(derive(self.seed, "synthetic", part))
        labels = torch.randperm(count, generator=generator) % self.classes
        noise = torch.randn(count, *patterns.shape[1:], generator=generator)
        return Split(_pixels(patterns[labels] + self.noise * noise), labels)


@dataclass(kw_only=True)
class SyntheticPairs(Source):
    """Smooth random patterns, each paired with its negative with the channels rotated by one.

    Args:
        train_count: number of training pairs, including the validation pairs.
        test_count: number of test pairs.
        seed: the seed of the pairs.
    """

    channels: Annotated[int, "[1, inf)"] = 3
    size: Annotated[int, "[1, inf)"] = 16
    classes: Annotated[int, "[1, inf)"] = 2
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    train_count: Annotated[int, "[2, inf)"] = 200
    test_count: Annotated[int, "[1, inf)"] = 50
    seed: Annotated[int, "[0, inf)"] = 0
    task: ClassVar[Task] = "translation"
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = ((0, 0, 0), (255, 255, 255))

    def read(self) -> tuple[Split, Split]:
        return self._draw(self.train_count, "train"), self._draw(self.test_count, "test")

    def _draw(self, count: int, part: str) -> Split:
        images = _pixels(_patterns(count, self.channels, self.native, self.seed, part))
        return Split(images, 255 - images.roll(1, dims=1))


def _patterns(count: int, channels: int, size: int, seed: int, part: str) -> Tensor:
    """Returns patterns (count, channels, size, size) in float32: 4 x 4 random numbers, enlarged; std near 1."""
    generator = torch.Generator().manual_seed(derive(seed, "synthetic", part))
    coarse = torch.randn(count, channels, 4, 4, generator=generator)
    return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True) * 1.5


def _pixels(values: Tensor) -> Tensor:
    return (127.5 + 50 * values).round().clamp(0, 255).to(torch.uint8)
