"""Checks of torch optimizers: signatures do not show valid ranges, so each is built once with one parameter."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from kdrun.config.values import inside, out_of_range
from kdrun.errors import ConfigError

FOREIGN = {"lr": "(0, inf)", "dampening": "[0, 1]"}
"""Ranges that are narrower than torch.optim's: with a learning rate of 0, nothing is trained and no error is raised;
with a dampening below 0, momentum grows instead of decaying."""


def is_optimizer(optimizer: Any) -> bool:
    """Whether ``optimizer`` is a class of torch optimizers."""
    from torch.optim import Optimizer  # here: errors of the root must not wait for the import of torch

    return inspect.isclass(optimizer) and issubclass(optimizer, Optimizer)


def check_optimizer(optimizer: Any, values: Mapping[str, Any], where: str) -> None:
    """Refuses ``values`` that the optimizer ``optimizer`` refuses.

    Raises:
        ConfigError: naming the key, or the whole node if only several keys together are wrong.
    """
    for key, interval in FOREIGN.items():
        if key in values and not inside(values[key], interval):
            raise ConfigError(f"{where}.{key}", out_of_range(values[key], interval))
    fault = _refusal(optimizer, values)
    if fault is not None:
        single = [key for key, value in values.items() if _refusal(optimizer, {key: value}) is not None]
        raise ConfigError(f"{where}.{single[0]}" if single else where, str(fault)) from fault


def _refusal(optimizer: Any, values: Mapping[str, Any]) -> Exception | None:
    from torch import nn, zeros

    try:
        optimizer([nn.Parameter(zeros(1))], **values)
    except (ValueError, TypeError, RuntimeError) as fault:
        return fault
    return None
