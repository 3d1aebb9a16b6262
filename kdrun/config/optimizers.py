"""Optimizers of torch, whose signatures do not say what they take: they are asked, with one parameter."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from kdrun.config.values import inside, out_of_range
from kdrun.errors import ConfigError

FOREIGN = {"lr": "(0, inf)"}
"""Ranges where torch.optim takes more than makes sense: a learning rate of 0 trains nothing without a word."""


def is_optimizer(made: Any) -> bool:
    """Whether ``made`` is a class of torch optimizers."""
    from torch.optim import Optimizer  # here: the root and its errors must not wait for torch

    return inspect.isclass(made) and issubclass(made, Optimizer)


def check_optimizer(made: Any, values: Mapping[str, Any], where: str) -> None:
    """Refuses ``values`` that the optimizer ``made`` refuses.

    Raises:
        ConfigError: naming the key; the whole node where only several keys together are at fault.
    """
    for key, interval in FOREIGN.items():
        if key in values and not inside(values[key], interval):
            raise ConfigError(f"{where}.{key}", out_of_range(values[key], interval))
    fault = _refusal(made, values)
    if fault is not None:
        alone = [key for key, value in values.items() if _refusal(made, {key: value}) is not None]
        raise ConfigError(f"{where}.{alone[0]}" if alone else where, str(fault)) from fault


def _refusal(made: Any, values: Mapping[str, Any]) -> Exception | None:
    from torch import nn, zeros

    try:
        made([nn.Parameter(zeros(1))], **values)
    except (ValueError, TypeError, RuntimeError) as fault:
        return fault
    return None
