"""VGG nets for small images."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Literal

from torch import nn

from kdrun.models.init import he_normal

CONVOLUTIONS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""How many convolutions each of the five blocks has, by depth; depth 8 is from the CRD benchmark, not the paper."""


class VGG(nn.Sequential):
    """Five blocks of 3x3 convolutions with batch normalization, global average pooling, and one linear layer.

    Submodules: ``block0`` ... ``block4``, which end before their last ReLU, and ``relu0`` (N, 64, S, S),
    ``relu1`` (N, 128, S/2, S/2), ``relu2`` (N, 256, S/4, S/4), ``relu3`` (N, 512, S/8, S/8), ``relu4`` (N,
    512, S/8, S/8), ``classifier``. Weights are named as in the CRD benchmark
    (github.com/HobbitLong/RepDistiller).

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        depth: convolutions and linear layers, the paper's three linear layers counted: 8, 11, 13, 16 or 19.

    Raises:
        ValueError: if the images are smaller than 8x8.

    Simonyan and Zisserman 2014, arXiv 1409.1556, table 1. Differences as in the CRD benchmark (Tian et al. 2019,
    arXiv 1910.10699): no pooling between the last two blocks, an average pooling as the last one, batch
    normalization, and one linear layer instead of three.
    """

    channels_last = True

    def __init__(self, channels: int, classes: int, size: int, depth: Literal[8, 11, 13, 16, 19]) -> None:
        if size < 8:
            raise ValueError(f"needs images of 8x8 or more, got {size}x{size}: set dataset.pad_to=8")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        widths = pairwise([channels, 64, 128, 256, 512, 512])
        for place, (pair, count) in enumerate(zip(widths, CONVOLUTIONS[depth], strict=True)):
            layers[f"block{place}"] = _block(*pair, count)
            layers[f"relu{place}"] = nn.ReLU()
            if place < 3:
                layers[f"pool{place}"] = nn.MaxPool2d(2)
        layers["pool4"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["classifier"] = nn.Linear(512, classes)
        super().__init__(layers)
        he_normal(self)


def _block(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for place in range(convolutions):
        before = [] if place == 0 else [nn.ReLU()]
        convolution = nn.Conv2d(inputs if place == 0 else outputs, outputs, 3, padding=1)
        layers += [*before, convolution, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers)
