"""The settings of a run that are ``auto`` in its config."""

from __future__ import annotations

from typing import Any


def settled(config: dict[str, Any], *, in_sweep: bool) -> dict[str, Any]:
    """Returns ``config`` with a value in place of each ``auto`` that keys or the record of a run depend on.

    The recorded config has these values, so a resumed run keeps them.

    Args:
        config: the whole config, as plain values.
        in_sweep: whether the run is a job of a sweep.
    """
    figures = not in_sweep if config["figures"] == "auto" else config["figures"]
    return {**config, "figures": figures}
