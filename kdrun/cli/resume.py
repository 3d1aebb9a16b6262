"""``resume=RUN``: the recorded config of a run, and the little that may be given with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from kdrun.config.choices import RECIPES
from kdrun.config.options import Options
from kdrun.config.root import check_root
from kdrun.config.suggest import did_you_mean
from kdrun.config.tree import dig, dotted, has
from kdrun.config.values import fit, show
from kdrun.errors import ConfigError, InputError

FREE = ("device", "threads")
"""What may differ from the run that is gone on with; ``epochs`` may grow."""


def wanted(options: Options, overrides: Sequence[str]) -> str | None:
    """Returns the folder of the run to go on with, None where ``overrides`` name none."""
    found = None
    for override in map(options.parse, overrides):
        if override.key_or_group == "resume":
            if override.is_sweep_override():
                raise ConfigError("resume", "takes one run")
            fit(override.value(), str | None, "resume")
            found = override.value()
    return None if found is None else str(found)


def recorded(options: Options, run: str, overrides: Sequence[str]) -> tuple[dict[str, Any], Path, list[str]]:
    """Returns the config, the folder and the overrides of ``run``, with those ``overrides`` that may be given anew.

    What the YAML files say by now does not matter: the run goes on with what was recorded.

    Raises:
        InputError: if there is no such run, or its record cannot be read.
        ConfigError: if an override says otherwise than the record; ``device``, ``threads`` and more ``epochs`` may.
    """
    folder = Path(run)
    config, before = read(folder)
    for override in map(options.parse, overrides):
        if override.key_or_group != "resume":
            take(config, override)
    config["resume"], config["out"] = run, place(folder, config["out"])
    check_root(config)
    given = [override for override in overrides if not override.startswith("resume=")]
    return config, folder, [*before, *given]


def place(folder: Path, out: str) -> str:
    """Returns where the run in ``folder`` finds trained models: its ``out``, as seen from here or from beside it.

    A relative ``out`` means another folder where the run is gone on with from elsewhere.
    """
    around = folder.resolve().parents[:2]  # of a run, and of a job of a sweep
    if Path(out).resolve() in around:
        return out
    return next((str(other) for other in around if (other / "models").is_dir()), out)


def read(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns the config and the overrides that a run's folder holds."""
    for name in ("config.yaml", "run.json"):
        if not (folder / name).is_file():
            raise InputError("resume", f"no run in {str(folder)!r}: it has no {name}")
    try:
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
        overrides = json.loads((folder / "run.json").read_text("utf-8"))["overrides"]
    except (YAMLError, ValueError, KeyError, TypeError) as fault:
        raise InputError("resume", f"the record in {str(folder)!r} cannot be read: {fault}") from fault
    if not isinstance(config, dict):
        raise InputError("resume", f"{str(folder / 'config.yaml')!r} is not the config of a run")
    return {str(key): value for key, value in config.items()}, list(overrides)


def take(config: dict[str, Any], override: Override) -> None:
    """Writes into ``config`` what ``override`` may change, and refuses what it may not."""
    key = override.package or override.key_or_group
    value: Any = override.value()
    if key in RECIPES and not isinstance(value, dict):
        raise ConfigError(key, "the run goes on with its own; leave it out, or start a new run")
    known = OmegaConf.create(config)
    if not has(known, key):
        raise ConfigError(key, f"unknown key{did_you_mean(key, dotted(known))}")
    before = dig(config, key)
    if key in FREE or (key == "epochs" and type(value) is int and value >= before):
        config[key] = value
    elif not same(before, value):
        before = before["name"] if isinstance(before, dict) and "name" in before else before
        way_out = "it may only grow" if key == "epochs" else "leave it out, or start a new run"
        raise ConfigError(key, f"the run was started with {show(before)}, now {show(value)}; {way_out}")


def same(before: Any, value: Any) -> bool:
    """Whether ``value``, as given in an override, says what was recorded; a node is named by its option."""
    if isinstance(before, dict) and isinstance(value, str):
        return before.get("name") == value
    if isinstance(before, list) and isinstance(value, list):
        return len(before) == len(value) and all(map(same, before, value))
    return bool(before == value)
