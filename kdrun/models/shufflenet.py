"""ShuffleNets V1 and V2 for small images."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ShuffleNetV1(nn.Sequential):
    """ShuffleNet V1: bottlenecks of grouped 1x1 convolutions whose channels are shuffled between the groups.

    Submodules: ``conv1``, ``bn1``, ``relu`` (the stem, N, 24, S, S), ``layer1`` (N, 240, S/2, S/2),
    ``layer2`` (N, 480, S/4, S/4), ``layer3`` (N, 960, S/8, S/8), after their ReLU, and ``linear``. Weights
    are named as in the CRD benchmark (github.com/HobbitLong/RepDistiller).

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).

    Zhang, Zhou, Lin, Sun 2017, arXiv 1707.01083, table 1, 3 groups, width 1. As in the CRD benchmark (Tian et
    al. 2019, arXiv 1910.10699) the stem is a 1x1 convolution at full size, without pooling.
    """

    channels_last = True

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__(
            OrderedDict(
                **_stem(channels),
                layer1=_grouped(24, 240, blocks=4),
                layer2=_grouped(240, 480, blocks=8),
                layer3=_grouped(480, 960, blocks=4),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                linear=nn.Linear(960, classes),
            )
        )


class ShuffleNetV2(nn.Sequential):
    """ShuffleNet V2: units that work on half of the channels and shuffle the two halves.

    Submodules: ``conv1``, ``bn1``, ``relu`` (the stem, N, 24, S, S), ``layer1`` (N, 116, S/2, S/2),
    ``layer2`` (N, 232, S/4, S/4), ``layer3`` (N, 464, S/8, S/8), ``conv2``, ``bn2``, ``relu2`` (N, 1024, S/8,
    S/8) and ``linear``. Weights are named as in the CRD benchmark (github.com/HobbitLong/RepDistiller).

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).

    Ma, Zhang, Zheng, Sun 2018, arXiv 1807.11164, table 5, width 1. As in the CRD benchmark (Tian et al. 2019,
    arXiv 1910.10699) the stem is a 1x1 convolution at full size, without pooling, and each stage has one unit
    more.
    """

    channels_last = True

    def __init__(self, channels: int, classes: int, size: int) -> None:
        super().__init__(
            OrderedDict(
                **_stem(channels),
                layer1=_split(24, 116, units=3),
                layer2=_split(116, 232, units=7),
                layer3=_split(232, 464, units=3),
                conv2=nn.Conv2d(464, 1024, 1, bias=False),
                bn2=nn.BatchNorm2d(1024),
                relu2=nn.ReLU(),
                avgpool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                linear=nn.Linear(1024, classes),
            )
        )


def _stem(channels: int) -> dict[str, nn.Module]:
    return {"conv1": nn.Conv2d(channels, 24, 1, bias=False), "bn1": nn.BatchNorm2d(24), "relu": nn.ReLU()}


def _grouped(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    first = Bottleneck(inputs, outputs - inputs, stride=2)  # the shortcut gives the other channels
    return nn.Sequential(first, *(Bottleneck(outputs, outputs, stride=1) for _ in range(blocks - 1)))


def _split(inputs: int, outputs: int, units: int) -> nn.Sequential:
    return nn.Sequential(DownUnit(inputs, outputs), *(SplitUnit(outputs) for _ in range(units)))


class Bottleneck(nn.Module):
    """The unit of V1; with stride 2 a pooled shortcut is concatenated to its ``outputs`` channels, else it is added."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int = 3) -> None:
        super().__init__()
        middle = outputs // 4
        self.groups = 1 if inputs == 24 else groups  # the stem's channels are too few to be grouped
        self.conv1 = nn.Conv2d(inputs, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None
        self.relu = nn.ReLU()  # a module, so that its input can be tapped

    def forward(self, x: Tensor) -> Tensor:
        out = F.channel_shuffle(F.relu(self.bn1(self.conv1(x))), self.groups)
        out = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out)))))
        active: Tensor = self.relu(x + out if self.pool is None else torch.cat([out, self.pool(x)], dim=1))
        return active


class SplitUnit(nn.Module):
    """The unit of V2: three convolutions on one half of the channels, none on the other; keeps (N, C, S, S)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        kept, half = x.chunk(2, dim=1)
        half = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(half)))))
        return F.channel_shuffle(torch.cat([kept, F.relu(self.bn3(self.conv3(half)))], dim=1), 2)


class DownUnit(nn.Module):
    """The unit of V2 between stages: both branches take all channels, (N, inputs, S, S) to (N, outputs, S/2, S/2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 2, padding=1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(F.relu(self.bn3(self.conv3(x)))))
        return F.channel_shuffle(torch.cat([left, F.relu(self.bn5(self.conv5(right)))], dim=1), 2)
