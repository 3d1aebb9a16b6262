"""Fully connected nets."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Annotated

from torch import nn


class MLP(nn.Sequential):
    """A fully connected ReLU net on the pixels of the image, all channels together.

    Submodules: ``hidden1``, ``hidden2``, ... (after the ReLU, before the next dropout), ``fc``.

    Args:
        channels, classes, size: those of the data set; a batch of images is (N, channels, size, size).
        hidden: units of each hidden layer, from shallow to deep; empty for softmax regression.
        dropout: dropout rate of each hidden layer's outputs.
        input_dropout: dropout rate of the pixels.

    Raises:
        ValueError: if a layer has no unit.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        hidden: list[int],
        dropout: Annotated[float, "[0, 1)"] = 0.0,
        input_dropout: Annotated[float, "[0, 1)"] = 0.0,
    ) -> None:
        if any(units < 1 for units in hidden):
            raise ValueError(f"hidden={list(hidden)}: every layer needs at least 1 unit")
        layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        dropped = input_dropout
        for place, (inputs, units) in enumerate(pairwise([channels * size * size, *hidden]), start=1):
            layers[f"hidden{place}"] = nn.Sequential(nn.Dropout(dropped), nn.Linear(inputs, units), nn.ReLU())
            dropped = dropout
        layers["dropout"] = nn.Dropout(dropped)
        layers["fc"] = nn.Linear([channels * size * size, *hidden][-1], classes)
        super().__init__(layers)
