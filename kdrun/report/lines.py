"""What several runs measured, put together: a line for everything that was trained alike but for its seed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.config.nodes import ALONE, bare, nameless
from kdrun.train.metrics import TASKS, Score

Config = dict[str, Any]

PRIVATE = {"seed", "name", "out", "resume", "device", "threads", "compile", "trust", "experiment", "claims", "baseline"}
"""Keys of a config that do not make a training another one; the place of the data does not either."""

UNTAUGHT = ("alone", "teacher", "given")
"""How a model came about that no other taught, as far as the run knows: trained alone, as a student or as the teacher,
whose recipe and seed are its own; or its weights were given."""

BESIDE_TEACHER = "top1_teacher_"
"""How scores begin that are taken where the teacher is right, or wrong."""

BASE = ("base", "alone", "scratch")
"""Names under which claims speak of a model that nobody taught."""


@dataclass(frozen=True)
class Run:
    """A run folder, as read.

    Args:
        folder: where it lies.
        config: recorded in it.
        summary: of a run that ended.
    """

    folder: Path
    config: Config
    summary: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One trained model as one run measured it.

    Args:
        run: the run.
        role: of the model in it: teacher, alone, student.
        how: the method that trained it, or one of ``UNTAUGHT``.
        kind: all that its training depends on but the seed.
        seed: of its training.
    """

    run: Run
    role: str
    how: str
    kind: Config
    seed: int

    @property
    def row(self) -> dict[str, Any]:
        """Its name, scores and costs."""
        found: dict[str, Any] = self.run.summary["models"][self.role]
        return found

    @property
    def metrics(self) -> Path:
        """The file of its epochs: the run's own, or that in the store, which lies beside the run or its sweep."""
        if self.role == "student":
            return self.run.folder / "metrics.jsonl"
        stored = Path("models", f"{self.row['name']}-{self.row['key'][:12]}", "metrics.jsonl")
        roots = (self.run.folder.parent, self.run.folder.parent.parent, Path(self.run.config["out"]))
        return next((root / stored for root in roots if (root / stored).is_file()), roots[0] / stored)


@dataclass(frozen=True)
class Line:
    """All measurements of what was trained alike but for the seed."""

    all: list[Measured]

    @property
    def models(self) -> list[Measured]:
        """One measurement for each seed, the first."""
        return once(self.all)

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.all[0].row["name"])

    @property
    def how(self) -> str:
        """The method that trained it, or one of ``UNTAUGHT``."""
        return self.all[0].how

    @property
    def section(self) -> tuple[str, str]:
        """The data set and its task: what can be compared."""
        return self.all[0].run.config["dataset"]["name"], self.all[0].run.summary["task"]

    def scores(self, name: str) -> list[float]:
        """Returns a test score of each seed that has it; none of one beside the teacher where there are several."""
        having = [one for one in self.all if name in one.row["test"]]
        teachers = {one.run.summary["models"].get("teacher", {}).get("key") for one in having}
        several = name.startswith(BESIDE_TEACHER) and len(teachers) > 1
        return [] if several else [one.row["test"][name] for one in once(having)]

    def differences(self, name: str) -> list[float]:
        """Returns how much each seed is above the same student trained alone from the same initial weights."""
        taught = [one for one in self.models if one.how not in UNTAUGHT and "alone" in one.run.summary["models"]]
        pairs = [(one.row["test"], one.run.summary["models"]["alone"]["test"]) for one in taught]
        return [test[name] - alone[name] for test, alone in pairs if name in test and name in alone]

    def costs(self, name: str) -> list[float]:
        """Returns ``seconds`` or ``asked`` of each seed, those of a chain's other links included."""
        own = [(one.row[name], self._links(one)) for one in self.models]
        return [cost + sum(link[name] for link in links) for cost, links in own if cost is not None]

    def stages(self) -> dict[str, list[float]]:
        """Returns the seconds of each stage and of a chain's other links, over the seeds."""
        found: dict[str, list[float]] = {}
        for one in self.models:
            spent = dict(one.row["stages"])
            for link in self._links(one):
                spent[link["name"]] = spent.get(link["name"], 0) + link["seconds"]
            for name, seconds in spent.items():
                found.setdefault(name, []).append(seconds)
        return found

    def _links(self, one: Measured) -> list[dict[str, Any]]:
        return one.run.summary["links"] if one.role == "student" else []

    def findings(self) -> dict[str, list[float]]:
        """Returns what else the method measured, over the seeds."""
        found: dict[str, list[float]] = {}
        for one in self.models:
            for name, value in one.run.summary.get("findings", {}).items() if one.role == "student" else ():
                found.setdefault(name, []).append(value)
        return found

    def claimed(self, *names: str) -> float | None:
        """Returns what an experiment claims of this model under one of ``names``; of its main score without a name.

        Claims are ``{MODEL: {base: 0.64, METHOD: 0.67, FINDING: ..., implausible: WHY}}``, or ``{MODEL: 0.67}`` for
        what a run trains. A claim under ``kd`` is of its presets too, ``kd_reverse`` and so on, where they have none
        of their own.
        """
        family = self.how.partition("_")[0]
        words = names or (BASE if self.how in UNTAUGHT else (self.how, family))
        for one in self.all:
            told = said_of(one)
            if isinstance(told, dict):
                told = next((told[word] for word in words if word in told), None)
            elif names or one.role != "student":
                told = None
            if isinstance(told, int | float):
                return float(told)
        return None

    def doubt(self) -> str | None:
        """Returns why an experiment finds what its source claims of this model implausible, where it does."""
        told = [said_of(one) for one in self.all] if self.claimed() is not None else []
        return next((one["implausible"] for one in told if isinstance(one, dict) and "implausible" in one), None)


def said_of(one: Measured) -> Any:
    """Returns what the experiment's ``claims`` say of a model."""
    claims = one.run.config.get("claims")
    return claims.get(one.row["name"]) if isinstance(claims, dict) else None


def once(measurements: list[Measured]) -> list[Measured]:
    """Returns the first measurement of each seed."""
    return list({one.seed: one for one in reversed(measurements)}.values())[::-1]


def main_score(line: Line) -> Score:
    """Returns the score that leads the tables of a line's task."""
    return TASKS[line.section[1]][0]


def gather(runs: list[Run]) -> list[Line]:
    """Returns a line for everything that ``runs`` trained alike but for the seed, in the order of the runs."""
    groups: dict[str, list[Measured]] = {}
    for one in (one for run in runs for one in measured(run)):
        groups.setdefault(json.dumps(one.kind, sort_keys=True), []).append(one)
    return [Line(group) for group in groups.values()]


def measured(run: Run) -> Iterator[Measured]:
    """Yields the models of a run; a student that was trained alone only once."""
    config, models, alone = run.config, run.summary["models"], ALONE[run.summary["task"]]
    recipe = {name: config[name] for name in ("epochs", "batch_size", "optimizer", "schedule")} | {"stop_at": None}
    shared = {name: config[name] for name in ("precision", "fast_dev_run")}
    data = {key: value for key, value in config["dataset"].items() if key != "root"}
    if "teacher" in models:
        node = config["teacher"]
        given = {"checkpoint": node["checkpoint"], "key": models["teacher"]["key"]}
        made = given if node["checkpoint"] else {"recipe": node["recipe"]}
        kind = {"role": "teacher", "dataset": {**data, "train_size": None}, "model": bare(node), **made, **shared}
        yield Measured(run, "teacher", "given" if node["checkpoint"] else "teacher", nameless(kind), node["seed"])
    by_itself = {"dataset": data, "model": bare(config["student"]), "recipe": recipe, **shared}
    taught = nameless(config["method"]) != nameless(alone)
    if "alone" in models and taught:
        yield Measured(run, "alone", "alone", nameless(by_itself), config["seed"])
    whole = {key: value for key, value in config.items() if key not in PRIVATE} | {"dataset": data}
    how = config["method"]["name"] if taught else "alone"
    yield Measured(run, "student", how, nameless(whole if taught else by_itself), config["seed"])
