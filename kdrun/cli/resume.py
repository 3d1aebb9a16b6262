"""``resume=RUN``: reads the recorded config of a run, and applies the few overrides that are allowed with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from kdrun.config.choices import RECIPES
from kdrun.config.options import Options
from kdrun.config.root import check_root
from kdrun.config.suggest import did_you_mean
from kdrun.config.tree import dig, dotted, has
from kdrun.config.trust import KEY, trusting
from kdrun.config.values import check_value, show
from kdrun.errors import ConfigError, InputError
from kdrun.store.run_folder import ABOUT, CONFIG, is_free, read_about, read_run_config

FREE = ("device", "threads")
"""Keys that may differ from the resumed run; ``epochs`` may also grow."""


def wanted(options: Options, overrides: Sequence[str]) -> str | None:
    """Returns the folder of the run to resume; None if ``overrides`` do not name one."""
    run = None
    for override in map(options.parse, overrides):
        if override.key_or_group == "resume":
            if override.is_sweep_override():
                raise ConfigError("resume", "takes one run")
            check_value(override.value(), str | None, "resume")
            run = override.value()
    return None if run is None else str(run)


def recorded(options: Options, run: str, overrides: Sequence[str]) -> tuple[dict[str, Any], Path, list[str]]:
    """Returns the config, the folder and the overrides of ``run``, changed by the ``overrides`` that are allowed.

    The run resumes with its recorded config, even if the YAML files have changed since; its trust is that of
    ``overrides`` alone.

    Raises:
        InputError: if there is no such run, or its record cannot be read.
        ConfigError: if an override contradicts the record; only ``device``, ``threads`` and more ``epochs`` may differ;
            or if the record needs ``trust`` that the overrides do not give.
    """
    folder = Path(run)
    config, before = recorded_parts(folder)
    parsed = list(map(options.parse, overrides))
    config = trusting(config, next((each.value() for each in reversed(parsed) if each.key_or_group == KEY), []), run)
    for override in parsed:
        if override.key_or_group not in ("resume", KEY):
            take(config, override)
    config["resume"], config["out"] = run, place(folder, config["out"])
    check_root(config)
    overriding = [override for override in overrides if not override.startswith("resume=")]
    return config, folder, [*before, *overriding]


def place(folder: Path, out: str) -> str:
    """Returns the ``out`` of the run in ``folder``, where its trained models are; corrected if it has moved.

    A relative ``out`` is another folder if the run is resumed from another working directory. Then the folder above the
    run that holds ``models`` is used.
    """
    around = folder.resolve().parents[:2]  # the ``out`` of a run, and that of a job of a sweep
    if Path(out).resolve() in around:
        return out
    return next((str(other) for other in around if (other / "models").is_dir()), out)


def recorded_parts(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Returns the config and the overrides recorded in the folder of a run.

    Raises:
        InputError: if there is no run, or a file of its record is damaged.
    """
    for name in (CONFIG, ABOUT):
        if not (folder / name).is_file():
            begun = folder.is_dir() and is_free(folder)
            way_out = "; it ended before it had begun: start it again with its own command" if begun else ""
            raise InputError("resume", f"no run in {str(folder)!r}: it has no {name}{way_out}")
    about = read_about(folder)
    return read_run_config(folder), list(about["overrides"])


def take(config: dict[str, Any], override: Override) -> None:
    """Applies ``override`` to ``config`` if it is allowed.

    Raises:
        ConfigError: if the key is unknown, or the value contradicts the record.
    """
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
    """Whether the ``value`` of an override equals the recorded one; a node is compared by the name of its option."""
    if isinstance(before, dict) and isinstance(value, str):
        return before.get("name") == value
    if isinstance(before, list) and isinstance(value, list):
        return len(before) == len(value) and all(map(same, before, value))
    return bool(before == value)
