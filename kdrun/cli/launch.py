"""The one call of ``hydra.main``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException

from kdrun.config.places import CONF, searching
from kdrun.errors import ConfigError


def launch(task: Callable[[Any], Any], argv: Sequence[str], config_dir: Path | None = None) -> int:
    """Runs Hydra on ``argv``; Hydra calls ``task`` once for each job, in this process or where its launcher runs it.

    Args:
        task: called with the config of a job; returns the value that an optimizing sweeper minimizes or maximizes.
        argv: flags and overrides in Hydra's own spelling.
        config_dir: a folder of further YAML files.

    Returns:
        The exit code of Hydra, or of a job that was interrupted; 0 if neither ended the process.

    Raises:
        ConfigError: if there is no such folder, or if Hydra refuses ``argv``, for example an interval for a sweeper
            that takes none.
    """
    main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(task)
    try:
        with searching(config_dir), handed_over(["kdrun", *argv]):
            main()
    except HydraException as fault:
        raise ConfigError("command line", str(fault) or str(fault.__cause__)) from fault
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@contextmanager
def handed_over(argv: list[str]) -> Iterator[None]:
    """Sets ``sys.argv`` to ``argv`` for Hydra, and makes Hydra raise its errors instead of printing them.

    Afterwards it restores what Hydra changes: each call adds a handler for standard output to the root logger.
    """
    words, full, root = sys.argv, os.environ.get("HYDRA_FULL_ERROR"), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
    try:
        yield
    finally:
        sys.argv, root.handlers[:] = words, handlers
        root.setLevel(level)
        del os.environ["HYDRA_FULL_ERROR"]
        if full is not None:
            os.environ["HYDRA_FULL_ERROR"] = full
