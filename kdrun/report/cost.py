"""The costs of a model: parameters and floating-point operations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrun.models.loading import lasting


def parameters(model: nn.Module) -> int:
    """Returns the number of parameters that inference needs, without buffers."""
    return sum(weight.numel() for weight in lasting(model, dict(model.named_parameters())).values())


def flops(model: nn.Module, image: Tensor) -> int:
    """Returns the floating-point operations of one image (1, C, H, W): two for each multiply-add of a layer."""
    from torch.utils.flop_counter import FlopCounterMode  # here: it imports triton, which training does not need

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(image)
    return int(counter.get_total_flops())


def short(number: float) -> str:
    """Returns ``number`` with three significant digits and k, M or G."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"
