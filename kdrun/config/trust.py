"""Trust: the packages whose classes a run may name are those that the person says on the command line, no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun.config.values import check_value, show
from kdrun.errors import ConfigError

KEY = "trust"


def trusting(config: Mapping[str, Any], trust: Any, folder: str) -> dict[str, Any]:
    """Returns the ``config`` recorded in a run folder with the ``trust`` that this command line gives.

    Every command that builds what a run folder names calls this first. What the folder records is a request: it may
    come from another person.

    Args:
        config: the recorded config.
        trust: the value of ``trust=`` on the command line; an empty list if it is not there.
        folder: the run folder, for an error.

    Raises:
        ConfigError: if the record asks for a package that is not trusted on the command line.
    """
    recorded = config.get(KEY) or []
    check_value(recorded, list[str], f"{folder}: {KEY}")
    check_value(trust, list[str], KEY)
    if missing := [package for package in recorded if package not in trust]:
        both = ",".join(dict.fromkeys([*trust, *recorded]))
        what = f"its config names classes of {show(', '.join(missing))}"
        raise ConfigError(folder, f"{what}; add trust=[{both[:200]}] if you trust this folder")
    return {**config, KEY: list(trust)}
