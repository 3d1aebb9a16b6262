"""Plain convolutional nets: blocks of 3x3 convolutions, with a pooling after each block."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Annotated

from torch import nn


class PlainCNN(nn.Sequential):
    """Blocks of 3x3 convolutions with ReLU, a 2x2 max-pooling after each block, then fully connected layers.

    Submodules: ``layer1``, ``layer2``, ... (the blocks, after their pooling: (N, last width, S/2, S/2), ...),
    ``hidden1``, ... (after the ReLU), ``fc``.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        blocks: for each block, the channels of each of its convolutions.
        hidden: units of each fully connected layer before the last.
        norm: whether there is batch normalization after each convolution.
        dropout: dropout rate of each hidden layer's outputs.

    Raises:
        ValueError: if a layer has no unit, or the images are too small for so many poolings.

    With ``norm`` these are the planeN nets of TAKD (Mirzadeh et al. 2019, arXiv 1902.03393), with the widths of its
    CIFAR-10 code; without it, DeepNN and LightNN of PyTorch's knowledge distillation tutorial.
    """

    channels_last = True

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        blocks: list[list[int]],
        hidden: list[int],
        norm: bool = False,
        dropout: Annotated[float, "[0, 1)"] = 0.0,
    ) -> None:
        if not all(blocks) or any(units < 1 for block in [*blocks, hidden] for units in block):
            raise ValueError(f"blocks={blocks}, hidden={hidden}: every block and layer needs at least 1 unit")
        left = size // 2 ** len(blocks)
        if left < 1:
            raise ValueError(
                f"{len(blocks)} poolings leave nothing of {size}x{size} images: "
                f"set dataset.pad_to={2 ** len(blocks)} or take fewer blocks"
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = channels
        for place, widths in enumerate(blocks, start=1):
            layers[f"layer{place}"] = _block([inputs, *widths], norm)
            inputs = widths[-1]
        layers["flatten"] = nn.Flatten()
        units = [inputs * left * left, *hidden]
        for place, (before, after) in enumerate(pairwise(units), start=1):
            layers[f"hidden{place}"] = nn.Sequential(nn.Linear(before, after), nn.ReLU())
            layers[f"dropout{place}"] = nn.Dropout(dropout)
        layers["fc"] = nn.Linear(units[-1], classes)
        super().__init__(layers)


def _block(widths: list[int], norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))
