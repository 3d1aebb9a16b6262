"""Nets for self-distillation: each has shallow classifiers that learn from its deepest one."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.models.heads import Head
from kdrun.models.init import he_normal
from kdrun.models.resnet import stage


class SelfDistill4(nn.Module):
    """Four convolutions, a residual block after each, and a classifier on each of the four.

    Submodules: ``layer1`` (N, 64, 16, 16), ``layer2`` (N, 128, 8, 8), ``layer3`` (N, 256, 6, 6), ``layer4``
    (N, 512, 4, 4), ``fc``; and three ``heads``, which map the first three features to (N, 512, 4, 4), see ``Head``.
    For three channels and 10 classes it has 14,615,848 parameters, 7,907,466 without its heads. These numbers
    are for ``width`` 64.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, 32, 32).
        width: channels of the first layer.

    Raises:
        ValueError: if the images are not 32x32: with other sizes the four features differ in shape.

    github.com/ruchikachavhan/symmetrical-knowledge-distillation-in-Auto-encoder-networks, after Zhang et al.
    2019, arXiv 1905.08094.
    """

    channels_last = True

    def __init__(self, channels: int, classes: int, size: int, width: Annotated[int, "[1, inf)"] = 64) -> None:
        super().__init__()
        if size != 32:
            raise ValueError(f"needs 32x32 images, got {size}x{size}: set dataset.pad_to=32")
        one, two, three, four = (width * 2**place for place in range(4))
        self.layer1 = _layer(channels, one, stride=2, padding=1)
        self.layer2 = _layer(one, two, stride=2, padding=1)
        self.layer3 = _layer(two, three, stride=1, padding=0)
        self.layer4 = _layer(three, four, stride=1, padding=0)
        bottlenecks = [
            _bottleneck([one, two, three, three, four], kernel=4),
            _bottleneck([two, three, four], kernel=3),
            _bottleneck([three, four], kernel=3),
        ]
        self.heads = nn.ModuleList(Head(bottleneck, four * 4 * 4, classes) for bottleneck in bottlenecks)
        self.fc = nn.Linear(four * 4 * 4, classes)

    def forward(self, images: Tensor) -> Tensor:
        feature = self.layer4(self.layer3(self.layer2(self.layer1(images))))
        logits: Tensor = self.fc(feature.flatten(1))
        return logits


def _layer(inputs: int, outputs: int, stride: int, padding: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(inputs, outputs, 3, stride, padding), ReflectedBlock(outputs))


def _bottleneck(widths: list[int], kernel: int) -> nn.Sequential:
    return nn.Sequential(*(layer for pair in pairwise(widths) for layer in _convolution(*pair, kernel, 1, 0)))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU(), nn.BatchNorm2d(outputs)]


class ReflectedBlock(nn.Module):
    """A residual block of two 3x3 convolutions with reflection padding, without a last ReLU; keeps (N, C, S, S)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        change = F.relu(self.bn1(self.conv1(reflect(x))))
        out: Tensor = x + self.bn2(self.conv2(reflect(change)))
        return out


def reflect(x: Tensor) -> Tensor:
    """Returns ``x`` (N, C, H, W) with one mirrored row and column on each side: (N, C, H + 2, W + 2).

    The result equals that of ``torch.nn.ReflectionPad2d(1)``, whose gradient on CUDA is not deterministic.
    """
    x = torch.cat([x[:, :, 1:2], x, x[:, :, -2:-1]], dim=2)
    return torch.cat([x[..., 1:2], x, x[..., -2:-1]], dim=3)


class OwnTeacherResNet18(nn.Module):
    """ResNet-18 with a 3x3 stem and a classifier after each of its four stages.

    Submodules: ``conv1``, ``bn1``, ``layer1`` (N, 64, S, S), ``layer2`` (N, 128, S/2, S/2), ``layer3``
    (N, 256, S/4, S/4), ``layer4`` (N, 512, S/8, S/8), ``flatten`` (N, 512; the deepest feature), ``fc``; and
    three ``heads``, which map the outputs of the first three layers to (N, 512), see ``Head``. For three channels
    and 100 classes it has 11,220,132 parameters without its heads, as usual for this form of ResNet-18. These
    numbers are for ``width`` 64.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        width: channels of the stem and the first stage.

    Raises:
        ValueError: if the images are smaller than 8x8.

    Zhang, Song, Gao, Chen, Bao, Ma 2019, "Be Your Own Teacher", arXiv 1905.08094, as in its public
    implementation: bottlenecks of a 1x1, a k x k (stride k) and a 1x1 convolution, with k = 8, 4, 2.
    """

    channels_last = True

    def __init__(self, channels: int, classes: int, size: int, width: Annotated[int, "[1, inf)"] = 64) -> None:
        super().__init__()
        if size < 8:
            raise ValueError(f"needs images of 8x8 or more, got {size}x{size}: set dataset.pad_to=8")
        one, two, three, four = (width * 2**place for place in range(4))
        self.conv1 = nn.Conv2d(channels, one, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(one)
        self.layer1 = stage(2, one, one, 1)
        self.layer2 = stage(2, one, two, 2)
        self.layer3 = stage(2, two, three, 2)
        self.layer4 = stage(2, three, four, 2)
        self.heads = nn.ModuleList(
            Head(_reducer(inputs, four, kernel), four, classes) for inputs, kernel in ((one, 8), (two, 4), (three, 2))
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(four, classes)
        he_normal(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return logits


def _reducer(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    middle = outputs // 4
    convolutions = [
        nn.Conv2d(inputs, middle, 1),
        nn.Conv2d(middle, middle, kernel, stride=kernel),
        nn.Conv2d(middle, outputs, 1),
    ]
    layers = [(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()) for layer in convolutions]
    return nn.Sequential(*sum(layers, ()), nn.AdaptiveAvgPool2d(1), nn.Flatten())
