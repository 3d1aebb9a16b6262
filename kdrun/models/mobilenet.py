"""MobileNetV2 for small images."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from torch import Tensor, nn

from kdrun.models.init import he_normal

STAGES = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
"""For each stage: expansion, channels at width 1, number of blocks, and stride of the first block."""


class MobileNetV2(nn.Sequential):
    """MobileNetV2: inverted residual blocks, with wide depthwise convolutions between narrow maps.

    Submodules: ``conv1`` (N, 32w, S/2, S/2), the stages ``blocks.0`` ... ``blocks.6``, of which ``blocks.1``
    (N, 24w, S/2, S/2), ``blocks.2`` (N, 32w, S/4, S/4), ``blocks.4`` (N, 96w, S/8, S/8) and ``blocks.6`` (N,
    320w, S/16, S/16) are the last ones of their size, ``conv2`` (N, 1280, S/16, S/16), ``classifier``; w is
    ``width``. Weights are named as in the CRD benchmark (github.com/HobbitLong/RepDistiller).

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        width: the factor w of all channels, rounded down; the last layer has at least 1280.

    Raises:
        ValueError: if ``width`` leaves a layer without channels.

    Sandler, Howard, Zhu, Zhmoginov, Chen 2018, arXiv 1801.04381, table 2. As in the CRD benchmark (Tian et
    al. 2019, arXiv 1910.10699) the stage of 24 channels keeps the size, activations are ReLU, channels are
    not rounded to multiples of 8, and the first stage has its 1x1 convolution too.
    """

    channels_last = True

    def __init__(self, channels: int, classes: int, size: int, width: Annotated[float, "(0, inf)"] = 0.5) -> None:
        if int(16 * width) < 1:
            raise ValueError(f"width={width} leaves the first stage without channels: take 0.0625 or more")
        inputs = int(32 * width)
        stem = _convolution(channels, inputs, 3, stride=2)
        stages = []
        for expansion, outputs, blocks, stride in STAGES:
            stages.append(_stage(inputs, int(outputs * width), expansion, blocks, stride))
            inputs = int(outputs * width)
        last = int(1280 * max(width, 1.0))
        super().__init__(
            OrderedDict(
                conv1=stem,
                blocks=nn.Sequential(*stages),
                conv2=_convolution(inputs, last, 1),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                classifier=nn.Sequential(nn.Linear(last, classes)),
            )
        )
        he_normal(self)


def _stage(inputs: int, outputs: int, expansion: int, blocks: int, stride: int) -> nn.Sequential:
    first = InvertedResidual(inputs, outputs, expansion, stride)
    return nn.Sequential(first, *(InvertedResidual(outputs, outputs, expansion, 1) for _ in range(blocks - 1)))


class InvertedResidual(nn.Module):
    """A 1x1 convolution to more channels, a depthwise 3x3, a 1x1 back; added to the input if the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.conv = nn.Sequential(
            *_convolution(inputs, inner, 1),
            *_convolution(inner, inner, 3, stride, groups=inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.adds else out


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
