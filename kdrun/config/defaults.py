"""What a YAML file from elsewhere must not hold: parts of Hydra's own section, options outside their group."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kdrun.config.hydra_keys import check_section, is_hydra
from kdrun.config.interpolations import check_interpolations
from kdrun.errors import ConfigError

SECTION = "hydra"


def stays_inside(option: str) -> bool:
    """Whether the path of an option or a group is relative and never leads up: ``experiment/mine/first``."""
    return not option.startswith("/") and not {".", ".."} & set(re.split(r"[/\\]", option)) and "\0" not in option


def check_file(content: dict[str, Any], package: str | None, config_path: str, name: str) -> None:
    """Refuses a file that reaches into Hydra's own section, chooses outside a group, or interpolates what it must not.

    Args:
        content: the keys of the file.
        package: where its header puts them, ``_global_``; None without a header.
        config_path: its group and its name: ``method/mine``.
        name: the file, for an error.

    Raises:
        ConfigError: naming the file, and the key.
    """
    check_interpolations(content, name)
    if is_hydra(config_path):
        raise ConfigError(name, "Hydra's own options come from installed packages only, not from a file")
    if package is not None and SECTION in package.split("."):
        raise ConfigError(name, f"its package is {package}; a file cannot be a part of Hydra's own section")
    for key, option in entries(content.get("defaults"), name):
        _check_entry(key, option, name)
    if SECTION in content:
        if not (config_path.startswith("experiment/") and package == "_global_"):
            raise ConfigError(name, "hydra: only an experiment, with `# @package _global_`, may have this section")
        check_section(content[SECTION], name)


def entries(defaults: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yields group and option of each entry of a defaults list; the option of a mere path is None.

    Raises:
        ConfigError: if it is not a list of such entries.
    """
    if not isinstance(defaults, list | None):
        raise ConfigError(name, "defaults: is not a list")
    for entry in defaults or ():
        if isinstance(entry, str):
            yield entry, None
        elif isinstance(entry, dict) and len(entry) == 1:
            yield next(iter(entry.items()))
        else:
            raise ConfigError(name, f"defaults: {entry!r} is not GROUP: OPTION")


def _check_entry(key: str, option: Any, name: str) -> None:
    group = key.split(" ")[-1]
    path, _, package = group.partition("@")
    if is_hydra(path) or SECTION in re.split(r"[.:]", package):
        raise ConfigError(name, f"defaults: {key}: a file cannot choose parts of Hydra's own section")
    options = option if isinstance(option, list) else [option]
    if not stays_inside(path.removeprefix("/")) or not all(stays_inside(str(each)) for each in options):
        raise ConfigError(name, f"defaults: {key}: {option}: an option is a name in its group")
