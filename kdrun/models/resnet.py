"""Residual nets for small images: 6n + 2 layers in three stages."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.models.init import he_normal


class ResNet(nn.Sequential):
    """A residual net of ``depth`` = 6n + 2 layers: a 3x3 stem and three stages of n blocks.

    Submodules: ``conv1``, ``bn1``, ``relu`` (the stem), then, after their last ReLU, ``layer1`` (N, width, S,
    S), ``layer2`` (N, 2 width, S/2, S/2), ``layer3`` (N, 4 width, S/4, S/4), and ``fc``. Weights are named as
    in torchvision's ResNets.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        depth: layers with weights, projections not counted: 8, 14, 20, 26, 32, 44, 56, 110.
        shortcut: the shortcut between maps of different shapes: a 1x1 convolution (``projection``), or subsampling
            and zero channels (``padded``).
        width: channels of the first stage; 16 in the paper.
        stem: channels of the stem; ``width`` if None.

    Raises:
        ValueError: if ``depth`` is not 6n + 2.

    He, Zhang, Ren, Sun 2015, arXiv 1512.03385, section 4.2. The paper's CIFAR nets have padded shortcuts;
    many distillation papers, such as TAKD, use projections.
    """

    channels_last = True
    bf16_is_faster = True

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        depth: Annotated[int, "[8, inf)"],
        shortcut: Literal["projection", "padded"] = "projection",
        width: Annotated[int, "[1, inf)"] = 16,
        stem: Annotated[int, "[1, inf)"] | None = None,
    ) -> None:
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth} is not 6n + 2: take 8, 14, 20, 26, 32, 44, 56 or 110")
        blocks = (depth - 2) // 6
        stem = stem or width
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, stem, 3, padding=1, bias=False),
                bn1=nn.BatchNorm2d(stem),
                relu=nn.ReLU(),
                layer1=stage(blocks, stem, width, 1, shortcut),
                layer2=stage(blocks, width, 2 * width, 2, shortcut),
                layer3=stage(blocks, 2 * width, 4 * width, 2, shortcut),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(4 * width, classes),
            )
        )
        he_normal(self)


def stage(blocks: int, inputs: int, outputs: int, stride: int, shortcut: str = "projection") -> nn.Sequential:
    """Returns ``blocks`` blocks, the first with the stride: (N, inputs, S, S) to (N, outputs, S/stride, S/stride)."""
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, then ReLU: (N, inputs, S, S) to (N, outputs, S/stride, S/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride, shortcut)
        self.relu = nn.ReLU()  # a module, so that its input can be tapped

    def forward(self, x: Tensor) -> Tensor:
        change = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        active: Tensor = self.relu(change + self.downsample(x))
        return active


def _shortcut(inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if shortcut == "padded":
        return Padded(outputs - inputs, stride)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Padded(nn.Module):
    """A shortcut without weights: takes every ``stride``-th pixel, and appends ``more`` zero channels."""

    def __init__(self, more: int, stride: int) -> None:
        super().__init__()
        self.more = more
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.more))
