"""The initial weights of convolutions."""

from __future__ import annotations

from torch import nn


def he_normal(model: nn.Module) -> None:
    """Draws the weights of every convolution from N(0, 2 / fan-out); other parameters keep PyTorch's initial values.

    Args:
        model: the model, changed in place; torch's global random generator is used.

    He, Zhang, Ren, Sun 2015, arXiv 1502.01852, equation 14.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
