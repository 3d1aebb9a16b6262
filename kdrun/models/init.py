"""How convolutions begin."""

from __future__ import annotations

from torch import nn


def he_normal(model: nn.Module) -> None:
    """Draws every convolution's weight from N(0, 2 / fan-out); the rest stays as PyTorch made it.

    Args:
        model: changed in place, drawing from torch's global generator.

    He, Zhang, Ren, Sun 2015, arXiv 1502.01852, equation 14.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
