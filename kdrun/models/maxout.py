"""Maxout nets: the MNIST teacher and student of FitNets."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal, NamedTuple

from torch import Tensor, nn


class Layer(NamedTuple):
    """The settings of one maxout convolution and the max-pooling after it."""

    outputs: int
    kernel: int
    padding: int
    window: int = 1  # of the pooling; 1 for none
    stride: int = 1


LAYERS = {
    3: [Layer(48, 8, 0, 4, 2), Layer(48, 8, 3, 4, 2), Layer(24, 5, 3, 2, 2)],
    6: [
        Layer(16, 5, 0),
        Layer(16, 3, 0, 4, 2),
        Layer(16, 5, 3),
        Layer(16, 3, 0, 4, 2),
        Layer(12, 3, 3),
        Layer(12, 3, 0, 2, 2),
    ],
}
"""The layers by number of convolutions: the teacher has 3, the thin and deep student 6."""


class MaxoutNet(nn.Sequential):
    """Maxout convolutions with max-pooling, then one linear layer.

    Submodules, for 28x28 images: with ``depth`` 3 ``layer1`` (N, 48, 10, 10), ``layer2`` (N, 48, 4, 4; the
    hint), ``layer3`` (N, 24, 3, 3); with 6 ``layer1`` (N, 16, 24, 24), ``layer2`` (N, 16, 10, 10), ``layer3``
    (N, 16, 12, 12), ``layer4`` (N, 16, 4, 4; the guided layer), ``layer5`` (N, 12, 8, 8), ``layer6`` (N, 12,
    3, 3); both have ``fc``. For one channel and 10 classes the two have 361,066 and 30,130 parameters.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        depth: number of convolutions: 3 for the teacher, 6 for the student.
        pieces_last: linear pieces per unit in the last layer (depth 3) or the last two (depth 6); the others have 2.
        dropout: dropout rate of each layer's outputs.
        input_dropout: dropout rate of the pixels.
        spread: initial weights are uniform in [-spread, spread], biases 0.

    Raises:
        ValueError: if the images are too small for these windows.

    Romero et al. 2014, arXiv 1412.6550, and its published MNIST configuration. That configuration has 4
    ``pieces_last``; with 2, the number of parameters is that of the paper. It also bounds the norms of the kernels;
    this net does not.
    """

    channels_last = True

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        depth: Literal[3, 6],
        pieces_last: Annotated[int, "[1, inf)"] = 2,
        dropout: Annotated[float, "[0, 1)"] = 0.0,
        input_dropout: Annotated[float, "[0, 1)"] = 0.0,
        spread: Annotated[float, "(0, inf)"] = 0.005,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs, dropped = channels, input_dropout
        for place, layer in enumerate(LAYERS[depth], start=1):
            pieces = pieces_last if place > depth - depth // 3 else 2
            layers[f"layer{place}"] = nn.Sequential(nn.Dropout(dropped), *_maxout(inputs, layer, pieces))
            inputs, dropped = layer.outputs, dropout
            size = _left(size, layer)
        layers["flatten"] = nn.Flatten()
        layers["dropout"] = nn.Dropout(dropped)
        layers["fc"] = nn.Linear(inputs * size * size, classes)
        super().__init__(layers)
        _begin(self, spread)


def _maxout(inputs: int, layer: Layer, pieces: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, layer.outputs * pieces, layer.kernel, padding=layer.padding)
    if layer.window == 1:
        return [convolution, Maxout(pieces)]
    return [convolution, Maxout(pieces), nn.MaxPool2d(layer.window, layer.stride, ceil_mode=True)]


def _left(size: int, layer: Layer) -> int:
    size = size + 2 * layer.padding - layer.kernel + 1
    if size < layer.window:
        raise ValueError("the images are too small for these windows: set dataset.pad_to=28")
    return -(-(size - layer.window) // layer.stride) + 1


def _begin(model: nn.Module, spread: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.uniform_(module.weight, -spread, spread)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Maxout(nn.Module):
    """The maximum of every ``pieces`` neighbouring channels: (N, units * pieces, ...) to (N, units, ...).

    Goodfellow, Warde-Farley, Mirza, Courville, Bengio 2013, arXiv 1302.4389, section 3.
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], -1, self.pieces, *x.shape[2:]).amax(2)
