"""``kdrun train -m``: checks all jobs, runs them one by one, and prints a table at the end."""

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
"""Keys that a rehearsal does not depend on: a sweep over learning rates needs only one rehearsal."""


def run_sweep(composer: Composer, flags: Flags) -> int:
    """Runs the jobs, writes the leaderboard and returns the exit code: the lowest of the failed jobs.

    Raises:
        ConfigError: before job 0, if the config of any job has an error.
    """
    from kdrun.run.assembly import check_nodes  # here, so that earlier errors do not wait for torch

    configs = check_jobs(composer, jobs(composer, flags.overrides), check_nodes)
    folder = new_folder(configs[0], "sweep").absolute()
    if not configs[0]["dry_run"]:
        rehearse_jobs(configs)
        claim(folder)
    spelled = composer.options.spell(flags.overrides)
    codes: list[int] = []
    task = job(folder, spelled, varying(composer, spelled), flags.config_dir, codes)
    words = [forced(composer.options, word) for word in spelled]
    stopped = launch(task, ["-m", *words, f"hydra.sweep.dir={quoted(str(folder))}"], flags.config_dir)
    if configs[0]["dry_run"]:
        return stopped or min(codes, default=0)
    from kdrun.report.leaderboard import write_leaderboard

    failed = write_leaderboard(folder)  # also of a stopped sweep, for the jobs that are done
    return stopped or min(codes, default=int(failed > 0))


def rehearse_jobs(configs: Sequence[dict[str, Any]]) -> None:
    """Rehearses every job; jobs that differ only in the keys ``BESIDE`` are rehearsed once.

    Raises:
        ConfigError: that of the first job with an error, with the number of other jobs that have one.
    """
    known: dict[str, ConfigError | None] = {}

    def check(config: dict[str, Any]) -> None:
        kind = json.dumps({key: config[key] for key in config if key not in BESIDE}, sort_keys=True, default=str)
        if kind not in known:
            known[kind] = fault(config)
        if refusal := known[kind]:
            raise refusal

    for_all(check, configs)


def fault(config: dict[str, Any]) -> ConfigError | None:
    """Returns the error that a rehearsal finds in ``config``; None if there is none."""
    import torch

    from kdrun.run.assembly import assemble
    from kdrun.train.runtime import Runtime

    try:
        assemble(config, Runtime(torch.device("cpu")), lambda *row: None, lambda line: None).summaries()
    except ConfigError as refusal:
        return refusal
    return None


def job(
    folder: Path, spelled: Sequence[str], keys: Sequence[str], config_dir: Path | None, codes: list[int]
) -> Callable[[Any], float]:
    """Returns the function that Hydra calls for each job: one run, whose failure does not stop the other jobs.

    Args:
        folder: the folder of the sweep.
        spelled: the overrides of the sweep, before ``forced`` changes them.
        keys: the keys that differ between its jobs.
        config_dir: a folder of further YAML files.
        codes: a list that gets the exit codes of failed jobs, except those of jobs in other processes.
    """
    traced = os.environ.get("HYDRA_FULL_ERROR", "0")  # the user's value, before launch() changes it

    def one(cfg: Any) -> float:
        words = list(HydraConfig.get().overrides.task)
        overrides = [word.removeprefix("++") if word.removeprefix("++") in spelled else word for word in words]
        label = f"{HydraConfig.get().job.num}_{job_label(overrides, keys)}".rstrip("_")
        try:
            from kdrun.run.run import run

            summary = run(compose(overrides, config_dir), folder / label, overrides, brief=True)
            return float(summary.get("score", "nan"))
        except Interrupted as fault:
            raise SystemExit(complain(fault, label, traced)) from fault  # Hydra would go on with the next job
        except Exception as fault:
            codes.append(complain(fault, label, traced))
            return float("nan")

    return one


def forced(options: Options, word: str) -> str:
    """Returns a plain override as ``++KEY=VALUE``, which Hydra accepts whether or not the key exists; others unchanged.

    The overrides of every job have been checked already. Hydra composes once more without the swept keys, where
    ``student.width=16`` may not be a key of the student, and refuses ``+`` for a key that exists.
    """
    override = options.parse(word)
    plain = not (is_choice(override) or override.is_sweep_override() or override.is_delete())
    return f"++{word.lstrip('+')}" if plain else word


def varying(composer: Composer, spelled: Sequence[str]) -> list[str]:
    """Returns the keys that have several values, including those that a YAML file sweeps over."""
    parsed = [composer.options.parse(override) for override in spelled]
    overrides = [*params(composer, parsed), *parsed]
    return [override.get_key_element() for override in overrides if override.is_sweep_override()]


def job_label(overrides: Sequence[str], keys: Sequence[str]) -> str:
    """Returns the overrides that differ between jobs, as a part of the name of a folder: ``kd_seed=1``."""
    parts = []
    for key, _, value in (override.partition("=") for override in overrides):
        if key in keys:
            parts.append(value if key == "method" else f"{re.split(r'[.@]', key)[-1]}={value}")
    return re.sub(r"[^\w.=,+@-]", "-", "_".join(parts))[:80]
