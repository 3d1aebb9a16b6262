"""Checks a config and builds the parts of a run, before any data is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.config.build import TEACHER, Builder
from kdrun.config.kinds import DATASET, METHOD, MODEL, OPTIMIZER, SCHEDULE
from kdrun.config.nodes import Node, architecture
from kdrun.core.evaluation import circumstances, evaluated
from kdrun.core.experiment import Experiment, build_method
from kdrun.core.models import Plan, Trained, initialised, reads, sources
from kdrun.core.rehearsal import StageSummary, noise, rehearse
from kdrun.core.teacher_table import Tables
from kdrun.data.source import Source
from kdrun.data.splits import Data
from kdrun.data.streams import check_batch
from kdrun.errors import ConfigError, InputError
from kdrun.methods.base import AnyMethod
from kdrun.models import loading
from kdrun.store import files, run_folder
from kdrun.store.evaluations import Evaluation, Evaluations
from kdrun.store.model_store import ModelStore, key
from kdrun.store.record import Listener
from kdrun.train.metrics import TASKS
from kdrun.train.runtime import Runtime
from kdrun.train.taps import Renormalized, Tapped, freeze

Config = dict[str, Any]
Notice = Callable[[str], None]

FROM_DATA = ("channels", "classes", "size")
"""Arguments of a model that the data set supplies."""


@dataclass(frozen=True)
class Assembly:
    """The parts of a run; nothing is read or trained yet.

    Args:
        config: the config that they were built from.
        exp: the experiment on noise, still without its teacher.
        method: the method by which the student will be trained.
        teacher: the node of the teacher; None if the method does not use one.
    """

    config: Config
    exp: Experiment
    method: AnyMethod
    teacher: Node | None

    def summaries(self) -> list[StageSummary]:
        """Rehearses the whole run on noise; returns the summaries of its stages, including the teacher's.

        Raises:
            ConfigError: if model, taps and method do not fit together.
            InputError: if ``teacher.checkpoint`` is no file.
        """
        if self.teacher and self.teacher["checkpoint"]:
            checkpoint(self.teacher)
        return rehearse(self.exp, self.method, self.config["student"]["name"], self.teacher)

    def models(self) -> dict[str, Tapped]:
        """Returns the untrained models by role: the teacher, if the run has one, and the student."""
        teacher = self.teacher
        with_teacher = (
            {"teacher": self.exp.initialised(teacher, self.exp.teacher_plan.seed, "teacher")} if teacher else {}
        )
        return {**with_teacher, "student": self.exp.student}

    def on(self, data: Data) -> Experiment:
        """Returns the experiment with ``data``, which must be on the run's device.

        Raises:
            ConfigError: if a batch size is larger than the number of training images.
        """
        check_batch(self.config["batch_size"], data.subset)
        if self.teacher and not self.teacher["checkpoint"]:
            check_batch(self.teacher["recipe"]["batch_size"], data.train, "teacher.recipe.batch_size")
        if self.exp.runtime.compile:
            self.exp.student.compile_batches(self.config["batch_size"])
        return replace(self.exp, data=data)


def assemble(config: Config, runtime: Runtime, listen: Listener, notice: Notice) -> Assembly:
    """Checks and builds everything that ``config`` names; reads no data.

    Raises:
        ConfigError: if a value is wrong, or the parts do not fit together.
    """
    builder = check_nodes(config)
    source: Source = builder.build(config["dataset"], where="dataset", kinds=[DATASET])
    if TASKS[source.task][0].percent:
        check_accuracies(config)
    method = build_method(builder, config["method"], config["seed"])
    check_method(config, method, source)
    teacher = config["teacher"] if method.needs_teacher else None
    for line in remarks(config, method, teacher):
        notice(line)
    return Assembly(config, experiment(config, builder, source, runtime, listen, notice), method, teacher)


def remarks(config: Config, method: AnyMethod, teacher: Node | None) -> Iterator[str]:
    """Yields what a user should know of the teacher before anything is trained."""
    if config["teacher"] and type(method).needs_teacher and not method.needs_teacher:
        yield f"method {config['method']['name']} with these settings does not use a teacher; it is left out"
    if same_initialisation(config, teacher):
        yield f"teacher and student have the same initial weights: same architecture, same seed {config['seed']}"


def experiment(
    config: Config, builder: Builder, source: Source, runtime: Runtime, listen: Listener, notice: Notice
) -> Experiment:
    """Returns the experiment on noise, its teacher yet to come."""
    node, what = config["student"], reads(builder, config["method"])
    plan, teacher_plan = plans(config)
    student = initialised(node, plan.seed, source, runtime.device, builder, "student", "features" in what)
    report_conversion(student, node, notice)
    store = ModelStore(Path(config["out"]) / "models", runtime.interrupt, notice)
    return Experiment(
        data=noise(source).to(runtime.device),
        runtime=runtime,
        store=store,
        builder=builder,
        student=student,
        student_node=node,
        teachers=(),
        plan=plan,
        teacher_plan=teacher_plan,
        reads=what,
        tables=tables(config["teacher"], store.root, notice),
        listen=listen,
        notice=notice,
        evaluations=Evaluations(Path(config["out"]) / "models" / "scores", notice),
    )


def tables(teacher: Node | None, store: Path, notice: Notice) -> Tables:
    """Returns the teacher tables of the run, as the ``teacher`` node says."""
    folder = store / "tables"
    if teacher is None:
        return Tables(folder, notice)
    dtype = np.dtype({"fp32": "float32", "fp16": "float16"}[teacher["table_precision"]])
    return Tables(folder, notice, teacher["table"], dtype)


def check_nodes(config: Config) -> Builder:
    """Checks that the classes named in ``config`` accept their arguments; reads no data and builds no model.

    Returns:
        The builder, which does not check these nodes again.

    Raises:
        ConfigError: naming the key, if an argument is not accepted.
    """
    builder, teacher = Builder(config["trust"]), config["teacher"]
    builder.check(config["dataset"], "dataset", kinds=[DATASET])
    builder.check(config["student"], "student", FROM_DATA, TEACHER, [MODEL])
    builder.check(config["method"], "method", kinds=[METHOD])
    builder.check(config["optimizer"], "optimizer", kinds=[OPTIMIZER])
    builder.check(config["schedule"], "schedule", kinds=[SCHEDULE])
    if teacher:
        builder.check(teacher, "teacher", FROM_DATA, TEACHER, [MODEL])
        builder.check(teacher["recipe"]["optimizer"], "teacher.recipe.optimizer", kinds=[OPTIMIZER])
        builder.check(teacher["recipe"]["schedule"], "teacher.recipe.schedule", kinds=[SCHEDULE])
    return builder


def check_accuracies(config: Config) -> None:
    """Checks that ``stop_at`` and the claims, which are accuracies in classification, are in [0, 1].

    Raises:
        ConfigError: naming the key, if one is not.
    """
    values = {"teacher.recipe.stop_at": config["teacher"]["recipe"]["stop_at"]} if config["teacher"] else {}
    for model, claims in (config["claims"] or {}).items():
        by_name = claims if isinstance(claims, dict) else {"": claims}
        values |= {
            f"claims.{model}.{name}".rstrip("."): each for name, each in by_name.items() if name != "implausible"
        }
    for where, value in values.items():
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise ConfigError(where, f"{value!r} is not an accuracy in [0, 1]")


def check_method(config: Config, method: AnyMethod, source: Source) -> None:
    """Refuses a method that does not fit the data set's task, or has no teacher where it needs one.

    Raises:
        ConfigError: naming the key.
    """
    name, data = config["method"]["name"], config["dataset"]["name"]
    if method.task != source.task:
        raise ConfigError("method", f"{name} is for {method.task}, dataset {data} is for {source.task}")
    if method.needs_teacher and not config["teacher"]:
        raise ConfigError("teacher", f"method {name} needs one; choose it with teacher=NAME (kdrun ls teacher)")


def plans(config: Config) -> tuple[Plan, Plan]:
    """Returns the plan of the student and the plan of the teachers."""
    node = {name: config[name] for name in ("epochs", "batch_size", "optimizer", "schedule")} | {"stop_at": None}
    teacher, fast = config["teacher"], config["fast_dev_run"]
    student = Plan(node, config["seed"], subset=True, fast=fast)
    return student, Plan(teacher["recipe"], teacher["seed"], subset=False, fast=fast) if teacher else student


def same_initialisation(config: Config, teacher: Node | None) -> bool:
    """Returns whether student and teacher have the same initial weights: the same architecture and seed."""
    if not teacher or teacher["checkpoint"]:
        return False
    return bool(teacher["seed"] == config["seed"] and architecture(teacher) == architecture(config["student"]))


def report_conversion(net: Tapped | Renormalized, node: Node, notice: Notice) -> None:
    """Says which types of numbers in the weight file of ``node`` were converted to those of the model, if any."""
    if converted := getattr(net.model, "converted", ""):
        notice(f"{node['name']}: {node['weights']} has other types of numbers than the model, used: {converted}")


def teach(exp: Experiment, node: Node | None) -> Experiment:
    """Returns ``exp`` with the teacher of ``node``: loaded from a checkpoint or the store, or trained now."""
    if node is None:
        return exp
    if node["checkpoint"]:
        return exp.taught_by(external(exp, node))
    trained, threshold = exp.trained(node), node["recipe"]["stop_at"]
    report_conversion(trained.model, node, exp.notice)
    if threshold is not None and (best := trained.scores[exp.main.name]) < threshold:
        exp.notice(f"teacher {node['name']} ended at {best:.4g} without reaching teacher.recipe.stop_at={threshold}")
    return exp.taught_by(trained)


def checkpoint(node: Node) -> Path:
    """Returns the weight file of ``teacher.checkpoint``: that path, or the file in it if it is a run or model folder.

    Raises:
        InputError: if there is no such file, or it is not the one whose sha256 the record beside it has. The teacher
            never falls back to random weights.
    """
    path = Path(node["checkpoint"])
    paths = [path, *(path / name for name in ("student.safetensors", "model.safetensors"))]
    file = next((file for file in paths if file.is_file()), None)
    if file is None:
        raise InputError("teacher.checkpoint", f"no such file '{path}'; leave it out to have the teacher trained")
    recorded = run_folder.recorded_digest(file)
    if recorded is not None and recorded != files.digest(file):
        what = "is damaged (its sha256 is not the recorded one); copy it again, or train it anew"
        raise InputError("teacher.checkpoint", f"{file} {what}")
    return file


def external(exp: Experiment, node: Node) -> Trained:
    """Loads the teacher of ``node`` from its checkpoint; prints its validation score, measured by the first such run.

    Raises:
        InputError: if the file cannot be used.
        ConfigError: if only one of its mean and std is set, or one of them has not one number per channel.
    """
    path = checkpoint(node)
    net = exp.initialised(node, exp.teacher_plan.seed, "teacher")
    if converted := loading.fill(net.model, loading.read(path), path, "teacher.checkpoint"):
        exp.notice(f"teacher {node['name']}: {path} has other types of numbers than the model, used: {converted}")
    source, normalization = exp.data.source, (node["mean"], node["std"])
    for name, values in zip(("mean", "std"), normalization, strict=True):
        if any(normalization) and len(values or ()) != source.channels:
            raise ConfigError(f"teacher.{name}", f"takes {source.channels} numbers, one per channel; set mean and std")
    model = Renormalized(net, (source.mean, source.std), normalization) if any(normalization) else net
    model = freeze(model.to(exp.runtime.device))
    depends = {"file": files.digest(path), "normalization": normalization, "model": architecture(node)}
    trained = Trained(model, node["name"], key({**depends, "sources": sorted(sources(node, exp.builder))}), {})
    scores = evaluated(exp, trained, circumstances(exp, "val"), lambda: Evaluation(exp.scores(model))).scores
    main = exp.main
    exp.notice(f"teacher {node['name']} from {path}: {main.name} {main.text(scores[main.name])} on validation images")
    return replace(trained, scores=scores)


def baseline_model(exp: Experiment, config: Config) -> Trained | None:
    """Returns the baseline: the same student trained alone from the same initial weights; None if it is turned off."""
    if not config["baseline"]:
        return None
    # with a chain of its own: a method that trains the student alone first has that as a link, and its cost
    return replace(exp, chain=[]).trained(config["student"], exp.baseline, None, exp.plan)


def is_baseline(exp: Experiment, config: Config) -> bool:
    """Returns whether the training of the run is the same as that of its baseline, so that it is done only once."""
    teacher = exp.teacher if exp.teachers else None
    own = exp.key_fields(config["student"], config["method"], teacher, exp.plan)
    return own == exp.key_fields(config["student"], exp.baseline, None, exp.plan)
