"""Small convolutional nets."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated

from torch import nn

from kdrun.models.init import he_normal


class CNN(nn.Sequential):
    """Three convolutions and a global average pooling: a simple teacher for images of any size from 4x4.

    Submodules: ``layer1`` (N, width, S, S), ``layer2`` (N, 2 width, S/2, S/2), ``layer3`` (N, 4 width, S/4,
    S/4), ``fc``. At width 36 it has 118,918 parameters for one channel and 10 classes.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        width: number of channels of the first layer.

    Raises:
        ValueError: if the images are smaller than 4x4.
    """

    channels_last = True

    def __init__(self, channels: int, classes: int, size: int, width: Annotated[int, "[1, inf)"] = 36) -> None:
        if size < 4:
            raise ValueError(f"needs images of 4x4 or more, got {size}x{size}: set dataset.pad_to=4")
        super().__init__(
            OrderedDict(
                layer1=_convolution(channels, width),
                layer2=nn.Sequential(nn.MaxPool2d(2), *_convolution(width, 2 * width)),
                layer3=nn.Sequential(nn.MaxPool2d(2), *_convolution(2 * width, 4 * width)),
                pool=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                fc=nn.Linear(4 * width, classes),
            )
        )
        he_normal(self)


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class MnistCNN(nn.Sequential):
    """The net of PyTorch's MNIST example: two convolutions without padding, one pooling, two linear layers.

    Submodules: ``relu1`` (N, 32, S-2, S-2), ``relu2`` (N, 64, S-4, S-4), ``pool`` (N, 64, S/2-2, S/2-2),
    ``relu3`` (N, 128). Its weights have the names of the example (conv1, conv2, fc1, fc2), so that a file saved
    by the example can be loaded. It has 1,199,882 parameters for 1x28x28 images and 10 classes.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        map_dropout: dropout rate of the pooled map.
        dropout: dropout rate of the hidden layer.

    Raises:
        ValueError: if the images are smaller than 6x6.

    github.com/pytorch/examples, mnist/main.py. The example returns log-softmax; this net returns logits, because
    a temperature is applied to logits.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        map_dropout: Annotated[float, "[0, 1)"] = 0.25,
        dropout: Annotated[float, "[0, 1)"] = 0.5,
    ) -> None:
        if size < 6:
            raise ValueError(f"needs images of 6x6 or more, got {size}x{size}: set dataset.pad_to=28")
        super().__init__(
            OrderedDict(
                conv1=nn.Conv2d(channels, 32, 3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 64, 3),
                relu2=nn.ReLU(),
                pool=nn.MaxPool2d(2),
                dropout1=nn.Dropout(map_dropout),
                flatten=nn.Flatten(),
                fc1=nn.Linear(64 * ((size - 4) // 2) ** 2, 128),
                relu3=nn.ReLU(),
                dropout2=nn.Dropout(dropout),
                fc2=nn.Linear(128, classes),
            )
        )
