"""The format numbers of the files that this version writes and reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdrun import __version__
from kdrun.errors import InputError

RECORD_FORMAT = 3
"""The format of the files of a run folder; increased when a field changes its name, or its meaning."""

FORMAT = 2
"""The format of checkpoints and trained models; increased when the same config would give other numbers."""


def check_format(folder: Path, about: dict[str, Any]) -> None:
    """Refuses a record of another format.

    Args:
        folder: the folder of the record.
        about: the content of its run.json or summary.json.

    Raises:
        InputError: if the format is not ``RECORD_FORMAT``.
    """
    if (number := about.get("format", 1)) != RECORD_FORMAT:
        what = f"has a record of format {number}, this kdrun ({__version__}) reads {RECORD_FORMAT}"
        raise InputError(str(folder), f"{what}; use the kdrun that wrote it (0.1 for 1), or run it anew")
