"""The folder of a new run or sweep."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from kdrun.errors import ConfigError, WriteError


def claim(folder: Path) -> None:
    """Creates the folder of a sweep; if two sweeps start at once with the same name, only one of them gets it.

    Raises:
        ConfigError: if the folder exists.
        WriteError: if it cannot be created.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as fault:
        raise ConfigError("name", f"{folder.name!r} is taken; choose another") from fault
    except OSError as fault:
        raise WriteError(str(folder), f"cannot be written ({fault.strerror}); choose another out=") from fault


def new_folder(config: dict[str, Any], what: str) -> Path:
    """Returns the folder of a new run or sweep: ``out/name``, or ``out/time_what`` if it has no name.

    Raises:
        ConfigError: if there is a folder of this name that is not empty.
    """
    out = Path(config["out"])
    if config["name"] is None:
        return out / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}_{what}"
    folder = out / str(config["name"])
    if folder.is_dir() and any(folder.iterdir()):
        run = (folder / "config.yaml").is_file()
        way_out = f", or go on with resume={folder}" if run else "; what a sweep has trained is not trained again"
        raise ConfigError("name", f"{config['name']!r} is taken; choose another{way_out}")
    return folder
