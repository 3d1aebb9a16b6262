"""LeNet-5, and a version with half the units."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class LeNet5(nn.Sequential):
    """LeNet-5 with ReLU and max-pooling, or a net with half the units in every layer but the last.

    Submodules: ``layer1`` (N, 6, 14, 14), ``layer2`` (N, 16, 5, 5), ``layer3`` (N, 120, 1, 1), ``hidden`` (N,
    84) and ``fc``; half as many channels where ``half``. For 10 classes it has 61,706 parameters (half:
    15,738) with one channel of input, 62,006 (15,888) with three.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, 32, 32).
        half: halves the units of every layer but the last.

    Raises:
        ValueError: if the images are not 32x32.

    LeCun, Bottou, Bengio, Haffner 1998, section II.B; their net has tanh, trained subsampling, a sparse second
    layer and radial basis functions at the end. This version, and the half of it, are those of zero-shot
    distillation (Nayak et al. 2019, arXiv 1905.08114).
    """

    def __init__(self, channels: int, classes: int, size: int, half: bool = False) -> None:
        if size != 32:
            raise ValueError(f"needs 32x32 images, got {size}x{size}: set dataset.pad_to=32")
        first, second, third, hidden = (3, 8, 60, 42) if half else (6, 16, 120, 84)
        super().__init__(
            OrderedDict(
                layer1=nn.Sequential(nn.Conv2d(channels, first, 5), nn.ReLU(), nn.MaxPool2d(2)),
                layer2=nn.Sequential(nn.Conv2d(first, second, 5), nn.ReLU(), nn.MaxPool2d(2)),
                layer3=nn.Sequential(nn.Conv2d(second, third, 5), nn.ReLU()),
                flatten=nn.Flatten(),
                hidden=nn.Sequential(nn.Linear(third, hidden), nn.ReLU()),
                fc=nn.Linear(hidden, classes),
            )
        )
