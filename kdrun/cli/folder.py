"""The folder of a new run or sweep."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from kdrun.errors import ConfigError, WriteError
from kdrun.store.run_folder import is_free, taken

STORE = "models"
"""The folder of the store in ``out``, see ``run.assembly``."""


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
        ConfigError: if there is a folder of this name that holds more than what is left of a run that had not begun.
    """
    out = Path(config["out"])
    if config["name"] is None:
        return out / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}_{what}"
    folder = out / str(config["name"])
    if folder == out / STORE:
        raise ConfigError("name", f"{STORE!r} is the folder of the trained models; choose another")
    if not is_free(folder):
        raise taken(folder)
    return folder
