"""The settings of a run that are ``auto`` in its config."""

from __future__ import annotations

from typing import Any

from kdrun.config.build import Builder
from kdrun.config.kinds import METHOD, MODEL
from kdrun.train.runtime import has_bf16, pick


def settled(config: dict[str, Any], *, in_sweep: bool) -> dict[str, Any]:
    """Returns ``config`` with a value in place of each ``auto`` that keys or the record of a run depend on.

    The recorded config has these values, so a resumed run keeps them.

    Args:
        config: the whole config, as plain values.
        in_sweep: whether the run is a job of a sweep.

    Raises:
        ConfigError: if ``precision`` is ``auto``, and the device is not present or a model does not exist.
    """
    figures = not in_sweep if config["figures"] == "auto" else config["figures"]
    precision = faster(config) if config["precision"] == "auto" else config["precision"]
    return {**config, "figures": figures, "precision": precision}


def faster(config: dict[str, Any]) -> str:
    """Returns ``bf16`` where it was measured to be faster than ``fp32``: on a CPU with instructions for it.

    Teacher and student must both be of a family that says so, as ``bf16_is_faster``: one autocast is over both.
    """
    if pick(config["device"]).type != "cpu" or not has_bf16():
        return "fp32"
    builder = Builder(config["trust"])
    teaches = getattr(builder.target(config["method"], "method", [METHOD]), "needs_teacher", True)
    roles = ["student", *(["teacher"] if teaches and config["teacher"] else [])]
    families = [builder.target(config[role], role, [MODEL]) for role in roles]
    return "bf16" if all(getattr(family, "bf16_is_faster", False) for family in families) else "fp32"
