"""Groups the models of several runs into lines: all models in a line are trained the same way, with different seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from os.path import isfile
from pathlib import Path
from typing import Any

from kdrun.config.nodes import BASELINE, architecture, without_names
from kdrun.train.metrics import TASKS, Score

Config = dict[str, Any]

PRIVATE = {"seed", "name", "out", "resume", "device", "threads", "compile", "trust", "experiment", "claims", "baseline"}
"""Keys of a config that do not change a training; the folder of the data does not change it either."""

UNTAUGHT = ("alone", "teacher", "external")
"""Values of ``how`` for models without a teacher: a student trained alone, the teacher, or external weights.

The teacher has its own recipe and seed, so it differs from a student trained alone.
"""

BESIDE_TEACHER = "top1_teacher_"
"""The prefix of scores on the images that the teacher classifies correctly, or wrongly."""

BASE = ("base", "alone", "scratch")
"""Names in ``claims`` for a model without a teacher."""


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder and checked, see ``reading``.

    Args:
        folder: the path of the folder.
        config: the recorded config.
        summary: the content of summary.json.
    """

    folder: Path
    config: Config
    summary: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One trained model with the scores of one run.

    Args:
        run: the run.
        role: the role of the model in the run: teacher, baseline or student.
        how: the method that trained it, or one of ``UNTAUGHT``.
        kind: everything that its training depends on, except the seed.
        seed: the seed of its training.
    """

    run: Run
    role: str
    how: str
    kind: Config
    seed: int

    @property
    def row(self) -> dict[str, Any]:
        """The name, scores and costs of the model, from the run's summary."""
        values: dict[str, Any] = self.run.summary["models"][self.role]
        return values

    @property
    def metrics(self) -> Path:
        """The metrics.jsonl of its training: the run's own, or that in the store, which is beside the run or sweep."""
        if self.role == "student":
            return self.run.folder / "metrics.jsonl"
        name = self.row["name"].replace("/", "-")  # the name of a folder, not a path
        stored = Path("models", f"{name}-{(self.row['key'] or '')[:12]}", "metrics.jsonl")
        roots = (self.run.folder.parent, self.run.folder.parent.parent, Path(self.run.config["out"]))
        return next((root / stored for root in roots if isfile(root / stored)), roots[0] / stored)


@dataclass(frozen=True)
class Line:
    """All measurements of models that are trained the same way, with different seeds."""

    all: list[Measured]

    @property
    def models(self) -> list[Measured]:
        """The first measurement of each seed."""
        return once(self.all)

    @property
    def name(self) -> str:
        """The name of the model."""
        return str(self.all[0].row["name"])

    @property
    def how(self) -> str:
        """The method that trained it, or one of ``UNTAUGHT``."""
        return self.all[0].how

    @property
    def section(self) -> tuple[str, str]:
        """The data set and its task; only lines of the same section can be compared."""
        return self.all[0].run.config["dataset"]["name"], self.all[0].run.summary["task"]

    def scores(self, name: str) -> list[float]:
        """Returns a test score for each seed that has it.

        A score that depends on the teacher (``BESIDE_TEACHER``) is left out if the runs have different teachers.
        """
        having = [one for one in self.all if name in one.row["test"]]
        teachers = {one.run.summary["models"].get("teacher", {}).get("key") for one in having}
        several = name.startswith(BESIDE_TEACHER) and len(teachers) > 1
        return [] if several else [one.row["test"][name] for one in once(having)]

    def differences(self, name: str) -> list[float]:
        """Returns the difference of each seed to its baseline, trained alone from the same initial weights."""
        taught = [one for one in self.models if one.how not in UNTAUGHT and "baseline" in one.run.summary["models"]]
        pairs = [(one.row["test"], one.run.summary["models"]["baseline"]["test"]) for one in taught]
        return [test[name] - baseline[name] for test, baseline in pairs if name in test and name in baseline]

    def costs(self, name: str) -> list[float]:
        """Returns a cost, such as ``teacher_images``, for each seed, including the other models of the chain."""
        own = [(one.row[name], self._chain(one)) for one in self.models]
        return [cost + sum(link[name] for link in chain) for cost, chain in own if cost is not None]

    def stages(self) -> dict[str, list[float]]:
        """Returns the seconds of each stage and of the other models of the chain, one value for each seed."""
        values: dict[str, list[float]] = {}
        for one in self.models:
            spent = dict(one.row["stages"])
            for link in self._chain(one):
                spent[link["name"]] = spent.get(link["name"], 0) + link["train_seconds"]
            for name, seconds in spent.items():
                values.setdefault(name, []).append(seconds)
        return values

    def _chain(self, one: Measured) -> list[dict[str, Any]]:
        return one.run.summary["chain"] if one.role == "student" else []

    def method_metrics(self) -> dict[str, list[float]]:
        """Returns the metrics of the method, one value for each seed."""
        values: dict[str, list[float]] = {}
        for one in self.models:
            for name, value in one.run.summary.get("method_metrics", {}).items() if one.role == "student" else ():
                if value is not None:
                    values.setdefault(name, []).append(value)
        return values

    def claimed(self, *names: str) -> float | None:
        """Returns the claimed value of this model under one of ``names``; without names, that of its main score.

        Claims are ``{MODEL: {base: 0.64, METHOD: 0.67, METRIC: ..., implausible: WHY}}``, or ``{MODEL: 0.67}`` for
        the student of a run. A claim under ``kd`` also counts for presets such as ``kd_reverse`` that have no claim of
        their own.
        """
        family = self.how.partition("_")[0]
        words = names or (BASE if self.how in UNTAUGHT else (self.how, family))
        for one in self.all:
            claim = claim_of(one)
            if isinstance(claim, dict):
                claim = next((claim[word] for word in words if word in claim), None)
            elif names or one.role != "student":
                claim = None
            if isinstance(claim, int | float) and not isinstance(claim, bool):
                return float(claim)
        return None

    def doubt(self) -> str | None:
        """Returns why the claim about this model is implausible, as the experiment states it; None if it does not."""
        claim = [claim_of(one) for one in self.all] if self.claimed() is not None else []
        return next((one["implausible"] for one in claim if isinstance(one, dict) and "implausible" in one), None)


def claim_of(one: Measured) -> Any:
    """Returns the entry of a model in the experiment's ``claims``."""
    claims = one.run.config.get("claims")
    return claims.get(one.row["name"]) if isinstance(claims, dict) else None


def once(measurements: list[Measured]) -> list[Measured]:
    """Returns the first measurement of each seed."""
    return list({one.seed: one for one in reversed(measurements)}.values())[::-1]


def main_score(line: Line) -> Score:
    """Returns the main score of a line's task."""
    return TASKS[line.section[1]][0]


def gather(runs: list[Run]) -> list[Line]:
    """Returns the lines of ``runs``: models trained the same way with different seeds are one line."""
    groups: dict[str, list[Measured]] = {}
    for one in (one for run in runs for one in measured(run)):
        groups.setdefault(json.dumps(one.kind, sort_keys=True), []).append(one)
    return [Line(group) for group in groups.values()]


def measured(run: Run) -> Iterator[Measured]:
    """Yields the models of a run; if the student is itself the baseline, it is yielded once."""
    config, models, baseline = run.config, run.summary["models"], BASELINE[run.summary["task"]]
    recipe = {name: config[name] for name in ("epochs", "batch_size", "optimizer", "schedule")} | {"stop_at": None}
    shared = {name: config[name] for name in ("precision", "fast_dev_run")}
    data = {key: value for key, value in config["dataset"].items() if key != "root"}
    if "teacher" in models:
        node = config["teacher"]
        file = {"checkpoint": node["checkpoint"], "key": models["teacher"]["key"]}
        origin = file if node["checkpoint"] else {"recipe": node["recipe"]}
        kind = {"role": "teacher", "dataset": {**data, "train_size": None}, "model": architecture(node)}
        how = "external" if node["checkpoint"] else "teacher"
        yield Measured(run, "teacher", how, without_names({**kind, **origin, **shared}), node["seed"])
    by_itself = {"dataset": data, "model": architecture(config["student"]), "recipe": recipe, **shared}
    taught = without_names(config["method"]) != without_names(baseline)
    if "baseline" in models and taught:
        yield Measured(run, "baseline", "alone", without_names(by_itself), config["seed"])
    whole = {key: value for key, value in config.items() if key not in PRIVATE} | {"dataset": data}
    how = config["method"]["name"] if taught else "alone"
    yield Measured(run, "student", how, without_names(whole if taught else by_itself), config["seed"])
