"""Where a new run or sweep keeps its record."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from kdrun.errors import ConfigError


def new_folder(config: dict[str, Any], what: str) -> Path:
    """Returns the folder of a new run: ``out/name``, or ``out/time_what``.

    Raises:
        ConfigError: if the name is taken.
    """
    out = Path(config["out"])
    if config["name"] is None:
        return out / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}_{what}"
    folder = out / str(config["name"])
    if folder.is_dir() and any(folder.iterdir()):
        way_out = f"choose another, or go on with resume={folder}"
        raise ConfigError("name", f"{config['name']!r} is taken; {way_out}")
    return folder
