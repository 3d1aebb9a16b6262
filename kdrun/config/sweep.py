"""A sweep as the list of its jobs, each checked before the first one starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.types import Override

from kdrun.config.choices import is_choice
from kdrun.config.compose import Composer
from kdrun.config.hydra_keys import check_parameter
from kdrun.config.options import swept
from kdrun.errors import ConfigError

T = TypeVar("T")
U = TypeVar("U")

LIMIT = 1000
"""Largest number of jobs of one sweep: more is an error, such as ``seed=range(1000000000)``."""


def sweep(overrides: Sequence[str], config_dir: Path | None = None) -> list[list[str]]:
    """Returns the overrides of every job of the sweep that ``overrides`` ask for, in the order of the jobs.

    ``a=1,2``, ``choice(...)``, ``range(...)`` and ``glob(...)`` are accepted, and so is ``hydra.sweeper.params`` in a
    file. An ``interval(...)``, which only an optimizing sweeper accepts, is replaced by its two ends.

    Args:
        overrides: in Hydra's grammar.
        config_dir: a folder of further YAML files.

    Raises:
        ConfigError: if an override cannot be parsed, or if there are more than ``LIMIT`` jobs.
    """
    return jobs(Composer(config_dir), overrides)


def jobs(composer: Composer, overrides: Sequence[str]) -> list[list[str]]:
    """Returns the overrides of every job, as ``sweep`` does."""
    parsed = [composer.options.parse(override) for override in composer.options.spell(overrides)]
    axes = []
    check_once(parsed)
    for override in [*params(composer, parsed), *parsed]:
        if override.is_sweep_override():
            check_parameter(override.get_key_element(), None, override.key_or_group)
        composer.options.first(override)
        axes.append(list(islice(values(override), LIMIT + 1)))
        if prod(map(len, axes)) > LIMIT:
            raise ConfigError(override.key_or_group, f"a sweep of more than {LIMIT} jobs; split it")
    return [list(job) for job in product(*axes)]


def check_once(parsed: Sequence[Override]) -> None:
    """Refuses a key that is swept over and said again: only the last would count, in jobs that are the same.

    Raises:
        ConfigError: naming the key.
    """
    keys = [override.get_key_element() for override in parsed]
    for override in parsed:
        if override.is_sweep_override() and keys.count(override.get_key_element()) > 1:
            raise ConfigError(override.get_key_element(), "is there more than once; write all its values once")


def params(composer: Composer, parsed: Sequence[Override]) -> list[Override]:
    """Returns the sweep parameters in the files: ``hydra: {sweeper: {params: {seed: "0,1"}}}`` in an experiment."""
    choices = [composer.options.first(override) for override in parsed if is_choice(override)]
    listed = composer.options.chosen(choices).hydra.sweeper.get("params") or {}
    on_line = {override.get_key_element() for override in parsed}
    return [composer.options.parse(f"{key}={value}") for key, value in listed.items() if key not in on_line]


def values(override: Override) -> Iterator[str]:
    """Yields ``override`` once for each value that it sweeps over."""
    key = override.get_key_element()
    if override.is_interval_sweep():
        ends: Any = override.value()
        yield from (f"{key}={end}" for end in (ends.start, ends.end))
    elif override.is_sweep_override():
        yield from (f"{key}={value}" for value in swept(override))
    else:
        yield str(override.input_line)


def check_jobs(
    composer: Composer, all_jobs: Sequence[Sequence[str]], check: Callable[[dict[str, Any]], object]
) -> list[dict[str, Any]]:
    """Returns the config of every job, composed and checked.

    Raises:
        ConfigError: that of the first wrong job; it also gives the number of jobs with the same error. Also if two jobs
            are the same.
    """

    def checked(overrides: Sequence[str]) -> dict[str, Any]:
        config = composer.compose(overrides)
        check(config)
        return config

    configs = for_all(checked, all_jobs)
    known: dict[str, int] = {}
    for number, config in enumerate(configs):
        first = known.setdefault(repr(config), number)
        if first != number:
            words = " ".join(all_jobs[number])
            raise ConfigError("command line", f"jobs {first} and {number} are the same ({words}); write a value once")
    return configs


def for_all(make: Callable[[T], U], jobs: Sequence[T]) -> list[U]:
    """Returns the result of ``make`` for every job.

    Raises:
        ConfigError: that of the first wrong job; it also gives the number of jobs with the same error.
    """
    done, faults = [], []
    for each in jobs:
        try:
            done.append(make(each))
        except ConfigError as fault:
            faults.append(fault)
    if faults:
        same = sum(str(fault) == str(faults[0]) for fault in faults)
        among = f" (in {same} of {len(jobs)} jobs)" if len(jobs) > 1 else ""
        raise ConfigError(faults[0].where, faults[0].what + among)
    return done
