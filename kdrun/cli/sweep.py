"""``kdrun train -m``: every job checked before the first, one run each, a table at the end."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from kdrun.cli import complain
from kdrun.cli.flags import Flags
from kdrun.cli.folder import claim, new_folder
from kdrun.cli.launch import launch
from kdrun.config.choices import is_choice
from kdrun.config.compose import Composer, compose
from kdrun.config.options import Options
from kdrun.config.quoting import quoted
from kdrun.config.sweep import check_jobs, for_all, jobs, params
from kdrun.errors import ConfigError, Interrupted

BESIDE = ("seed", "epochs", "name", "optimizer", "schedule")
"""Keys that a rehearsal does not depend on: a sweep over rates need not be rehearsed rate by rate."""


def run_sweep(composer: Composer, flags: Flags) -> int:
    """Runs the jobs, writes the leaderboard and returns the exit code: the least of the jobs that failed.

    Raises:
        ConfigError: before job 0, if any job's config is at fault.
    """
    from kdrun.run.assembly import check_nodes  # here: a faulty sweep is refused without waiting for torch

    configs = check_jobs(composer, jobs(composer, flags.overrides), check_nodes)
    folder = new_folder(configs[0], "sweep").absolute()
    if not configs[0]["dry_run"]:
        rehearse(configs)
        claim(folder)
    spelled = composer.options.spell(flags.overrides)
    codes: list[int] = []
    task = job(folder, spelled, varying(composer, spelled), flags.config_dir, codes)
    words = [forced(composer.options, word) for word in spelled]
    stopped = launch(task, ["-m", *words, f"hydra.sweep.dir={quoted(str(folder))}"], flags.config_dir)
    if configs[0]["dry_run"]:
        return stopped or min(codes, default=0)
    from kdrun.report.leaderboard import write

    failed = write(folder)  # also of a sweep that was stopped: what is done is done
    return stopped or min(codes, default=int(failed > 0))


def rehearse(configs: Sequence[dict[str, Any]]) -> None:
    """Goes through the stages of every job once, on noise; of jobs that differ in ``BESIDE`` alone, of one.

    Raises:
        ConfigError: of the first job that is at fault, saying how many others are so too.
    """
    known: dict[str, ConfigError | None] = {}

    def check(config: dict[str, Any]) -> None:
        kind = json.dumps({key: config[key] for key in config if key not in BESIDE}, sort_keys=True, default=str)
        if kind not in known:
            known[kind] = fault(config)
        if found := known[kind]:
            raise found

    for_all(check, configs)


def fault(config: dict[str, Any]) -> ConfigError | None:
    """Returns what a rehearsal finds wrong in ``config``."""
    import torch

    from kdrun.run.assembly import tried
    from kdrun.train.runtime import Runtime

    try:
        tried(config, Runtime(torch.device("cpu")), lambda *heard: None, lambda line: None)
    except ConfigError as found:
        return found
    return None


def job(
    folder: Path, spelled: Sequence[str], keys: Sequence[str], config_dir: Path | None, codes: list[int]
) -> Callable[[Any], float]:
    """Returns what Hydra calls for each job: one run, whose failure does not stop the others.

    Args:
        folder: of the sweep.
        spelled: its overrides, before they were forced on Hydra.
        keys: what differs among its jobs.
        config_dir: a folder of further YAML files.
        codes: where the exit codes of failed jobs are added; those of jobs in other processes are not.
    """
    traced = os.environ.get("HYDRA_FULL_ERROR", "0")  # as the user set it: launch() sets it too

    def train(cfg: Any) -> float:
        words = list(HydraConfig.get().overrides.task)
        overrides = [word.removeprefix("++") if word.removeprefix("++") in spelled else word for word in words]
        label = f"{HydraConfig.get().job.num}_{described(overrides, keys)}".rstrip("_")
        try:
            from kdrun.run.run import run

            summary = run(compose(overrides, config_dir), folder / label, overrides, brief=True)
            return float(summary.get("score", "nan"))
        except Interrupted as fault:
            raise SystemExit(complain(fault, label, traced)) from fault  # Hydra would go on with the next job
        except Exception as fault:
            codes.append(complain(fault, label, traced))
            return float("nan")

    return train


def forced(options: Options, word: str) -> str:
    """Returns an override as Hydra takes it whatever is there: all of them have been checked, job by job.

    Hydra itself composes once without what is swept over, where ``student.width=16`` may be a key of no student, and
    refuses ``+`` for a key that is there already.
    """
    override = options.parse(word)
    plain = not (is_choice(override) or override.is_sweep_override() or override.is_delete())
    return f"++{word.lstrip('+')}" if plain else word


def varying(composer: Composer, spelled: Sequence[str]) -> list[str]:
    """Returns the keys that have several values, those that a file sweeps over among them."""
    parsed = [composer.options.parse(override) for override in spelled]
    overrides = [*params(composer, parsed), *parsed]
    return [override.get_key_element() for override in overrides if override.is_sweep_override()]


def described(overrides: Sequence[str], keys: Sequence[str]) -> str:
    """Returns what sets a job apart as part of a folder's name: ``kd_seed=1``."""
    parts = []
    for key, _, value in (override.partition("=") for override in overrides):
        if key in keys:
            parts.append(value if key == "method" else f"{re.split(r'[.@]', key)[-1]}={value}")
    return re.sub(r"[^\w.=,+@-]", "-", "_".join(parts))[:80]
