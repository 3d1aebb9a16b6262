"""Hydra's own section: which of its keys words and files may set. All others are refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from kdrun.config.values import show
from kdrun.errors import ConfigError

TAKEN = "of Hydra's keys only hydra.mode, hydra.sweeper and hydra.launcher take values"

FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
"""Hydra's keys for folders of runs. ``out`` and ``name`` decide these folders."""

PLUGINS = ("hydra.launcher", "hydra.sweeper")
"""What runs the jobs of a sweep, and what finds them: plugins, with settings of their own."""

NEVER = frozenset(
    "_target_ _args_ _partial_ _recursive_ _convert_ setup srun_args runtime_env additional_parameters python address "
    "custom_search_space temp_folder submitit_folder".split()
)
"""Settings of plugins that are code, or places to write to or to take code from."""

MAKERS = ("hydra.", "hydra_plugins.", "optuna.")
"""Where the classes of plugins come from."""

PLAIN = re.compile(r"[\w .,:;/@%+=*-]{0,200}")
"""A plain text for a plugin: it may become a line of a shell script."""

PER_RUN = frozenset({"trust", "resume", "name", "out", "dry_run"})
"""Keys that have one value for a whole sweep, on the command line."""

VARYING = ("hydra.runtime", "hydra.overrides", "hydra.job.override_dirname", "hydra.mode", *PLUGINS)
"""Parts that differ from one composition to the next, or are checked by themselves."""


def is_hydra(key: str) -> bool:
    """Whether the dotted ``key``, or the group, is a part of Hydra's own section."""
    return re.split(r"[./@:]", key.lstrip("/+~"))[0] == "hydra"


def check_word(key: str, package: str | None, value: Any) -> None:
    """Refuses an override of the command line that sets what is not its own in Hydra's section.

    Raises:
        ConfigError: naming the key.
    """
    if package is not None and "hydra" in re.split(r"[.:@]", package):
        raise ConfigError(f"{key}@{package}", "an option cannot be put into Hydra's own section")
    if key in ("hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler") and package is None:
        return
    if is_hydra(key):
        for place, each in _leaves(key, value):
            check_key(place, each)


def check_section(section: Any, where: str) -> None:
    """Refuses what the ``hydra:`` of a file must not hold: it makes a sweep, and sets plain values of a launcher.

    Raises:
        ConfigError: naming the file ``where``, and the key.
    """
    try:
        for key, value in _leaves("hydra", section):
            if key.startswith("hydra.sweeper.") and not key.startswith("hydra.sweeper.params."):
                raise ConfigError(key, "is set on the command line only")
            check_key(key, value)
    except ConfigError as fault:
        raise ConfigError(where, f"{fault.where}: {fault.what}") from fault


def check_key(key: str, value: Any) -> None:
    """Refuses the ``key`` of Hydra's section if kdrun alone sets it, or if ``value`` is not plain.

    Raises:
        ConfigError: naming the key.
    """
    if key in FOLDERS:
        raise ConfigError(key, "is set by kdrun; use out= and name=")
    parts = key.split(".")
    plugin, settings = ".".join(parts[:2]), parts[2:]
    if key == "hydra.mode":
        if value not in ("MULTIRUN", "RUN"):
            raise ConfigError(key, f"{show(value)} is not one of MULTIRUN, RUN")
    elif plugin == "hydra.sweeper" and settings[:1] == ["params"]:
        check_parameter(".".join(settings[1:]), value, key)
    elif plugin not in PLUGINS or not settings or NEVER & set(settings):
        raise ConfigError(key, f"is set by kdrun alone; {TAKEN}")
    elif not _is_plain(value):
        raise ConfigError(key, f"{show(value)} is not a plain value: a number, true, false, null or a short text")


def check_parameter(name: str, value: Any, where: str) -> None:
    """Refuses the parameter ``name`` of a sweep if a sweep has one value for it, or if it is a key of Hydra.

    Raises:
        ConfigError: naming ``where``.
    """
    if not name or is_hydra(name) or name.lstrip("+") in PER_RUN:
        what = "" if name == where else f"{name or show(value)} "
        raise ConfigError(where, f"{what}cannot be swept over")
    if isinstance(value, dict | list):
        raise ConfigError(where, f"{show(value)} is not a text; write the values in quotes: '0,1,2'")


def _is_plain(value: Any) -> bool:
    is_text = isinstance(value, str) and PLAIN.fullmatch(value) is not None
    return is_text or value is None or isinstance(value, bool | int | float)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _leaves(f"{key}.{name}", item)
    else:
        yield key, value


def check_composed(hydra: DictConfig, usual: DictConfig) -> None:
    """Refuses Hydra's section as composed if a file or word has changed it on a way that the other checks do not see.

    Args:
        hydra: the section, with all options and words.
        usual: the section of a run without any.

    Raises:
        ConfigError: naming the key.
    """
    before = dict(_leaves("hydra", OmegaConf.to_container(usual, resolve=False)))
    for key, value in _leaves("hydra", OmegaConf.to_container(hydra, resolve=False)):
        if not f"{key}.".startswith(tuple(f"{part}." for part in VARYING)) and before.get(key, before) != value:
            raise ConfigError(key, "is set by kdrun alone")
        if key.endswith("._target_") and not str(value).startswith(MAKERS):
            raise ConfigError(key, f"{show(value)} is not a plugin of Hydra")
