"""Residual nets of 3, 4, 5, 6 and 10 layers."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Annotated, Literal

from torch import Tensor, nn

from kdrun.models.init import he_normal

CONVOLUTIONS = {
    "staged": {3: [1], 4: [1, 1], 5: [1, 1, 1], 6: [1, 1, 1, 1], 10: [2, 2, 2, 2]},
    "truncated": {3: [1], 4: [2], 5: [2, 1], 6: [2, 2], 10: [2, 2, 2, 2]},
}
"""How many convolutions each stage has, by family and depth."""


class ShallowResNet(nn.Sequential):
    """A residual net of few layers, with one block per stage and at most four stages.

    Submodules: ``conv1``, ``bn1``, ``relu`` (the stem), ``layer1`` (N, w, S, S), ``layer2`` (N, 2w, S/2,
    S/2), ... to at most ``layer4``, all after their ReLU, and ``fc``; w is ``base_width``.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        depth: convolutions and linear layers, projections not counted: 3, 4, 5, 6 or 10.
        family: ``staged`` has as many stages as possible, with one convolution each below 10 layers; ``truncated``
            has two convolutions per stage where possible, and so fewer stages to tap.
        base_width: channels of the first stage.

    Raises:
        ValueError: if there is no net of this depth.

    The blocks are those of He, Zhang, Ren, Sun 2015, arXiv 1512.03385; with 10 layers both families are ResNet-10.
    Papers describe smaller nets of this name only by their depth. Two convolutions per block give even depths only,
    so depths 3 and 5 need blocks of one. In ``staged``, 3, 4, 5 and 6 layers are 1, 2, 3 and 4 stages.
    """

    channels_last = True

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        depth: Annotated[int, "[3, 10]"],
        family: Literal["staged", "truncated"] = "staged",
        base_width: Annotated[int, "[1, inf)"] = 64,
    ) -> None:
        if depth not in CONVOLUTIONS[family]:
            raise ValueError(f"no {family} net has depth={depth}: take 3, 4, 5, 6 or 10")
        stages = CONVOLUTIONS[family][depth]
        widths = [base_width, *(base_width * 2**stage for stage in range(len(stages)))]
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(channels, base_width, 3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(base_width),
            relu=nn.ReLU(),
        )
        for place, (pair, count) in enumerate(zip(pairwise(widths), stages, strict=True), start=1):
            layers[f"layer{place}"] = Block(*pair, stride=1 if place == 1 else 2, convolutions=count)
        layers["avgpool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(widths[-1], classes)
        super().__init__(layers)
        he_normal(self)


class Block(nn.Module):
    """``convolutions`` 3x3 convolutions with a shortcut: (N, inputs, S, S) to (N, outputs, S/stride, S/stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, convolutions: int) -> None:
        super().__init__()
        layers = _convolution(inputs, outputs, 3, stride)
        for _ in range(convolutions - 1):
            layers += [nn.ReLU(), *_convolution(outputs, outputs, 3, 1)]
        self.change = nn.Sequential(*layers)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Sequential(*([] if same else _convolution(inputs, outputs, 1, stride)))
        self.relu = nn.ReLU()  # a module, so that its input can be tapped

    def forward(self, x: Tensor) -> Tensor:
        active: Tensor = self.relu(self.change(x) + self.shortcut(x))
        return active


def _convolution(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]
