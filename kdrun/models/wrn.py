"""Wide residual nets."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.models.init import he_normal


class WideResNet(nn.Sequential):
    """A pre-activation residual net of ``depth`` = 6n + 4 layers, ``widening`` times as wide as ResNet's.

    Submodules: ``conv1``, then, before any ReLU, ``block1`` (N, 16k, S, S), ``block2`` (N, 32k, S/2, S/2),
    ``block3`` (N, 64k, S/4, S/4), then ``bn1``, ``relu`` and ``fc``; k is ``widening``. Weights are named as
    in the CRD benchmark (github.com/HobbitLong/RepDistiller), so that its teachers load.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        depth: layers with weights, projections not counted: 10, 16, 22, 28, 40.
        widening: the factor k.
        dropout: dropout rate between the two convolutions of a block.

    Raises:
        ValueError: if ``depth`` is not 6n + 4.

    Zagoruyko and Komodakis 2016, arXiv 1605.07146, table 1.
    """

    channels_last = True

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        depth: Annotated[int, "[10, inf)"],
        widening: Annotated[int, "[1, inf)"],
        dropout: Annotated[float, "[0, 1)"] = 0.0,
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(f"depth={depth} is not 6n + 4: take 10, 16, 22, 28 or 40")
        blocks, width = (depth - 4) // 6, 16 * widening
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, 16, 3, padding=1, bias=False),
                block1=_stage(blocks, 16, width, 1, dropout),
                block2=_stage(blocks, width, 2 * width, 2, dropout),
                block3=_stage(blocks, 2 * width, 4 * width, 2, dropout),
                bn1=nn.BatchNorm2d(4 * width),
                relu=nn.ReLU(),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(4 * width, classes),
            )
        )
        he_normal(self)


def _stage(blocks: int, inputs: int, outputs: int, stride: int, dropout: float) -> nn.Sequential:
    first = PreActivationBlock(inputs, outputs, stride, dropout)
    others = [PreActivationBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1)]
    return nn.Sequential(OrderedDict(layer=nn.Sequential(first, *others)))


class PreActivationBlock(nn.Module):
    """BN, ReLU, 3x3 convolution, twice, beside a shortcut: (N, inputs, S, S) to (N, outputs, S/stride, S/stride).

    If the shapes differ, the shortcut is a 1x1 convolution of the output of the first ReLU, else the input itself.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()  # a module, so that its input can be tapped
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.convShortcut = (
            None if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        change: Tensor = self.conv2(self.dropout(F.relu(self.bn2(self.conv1(active)))))
        return change + (x if self.convShortcut is None else self.convShortcut(active))
