"""From a config to the pieces of a run, each checked before any data is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdrun.config.build import TEACHER, build, check
from kdrun.config.nodes import Node, bare
from kdrun.core.experiment import Experiment
from kdrun.core.models import Plan, Trained, fresh
from kdrun.core.rehearsal import Sketch, noise, rehearse
from kdrun.data.source import Source
from kdrun.data.splits import Data
from kdrun.data.streams import check_batch
from kdrun.errors import ConfigError, InputError
from kdrun.methods.base import Method
from kdrun.models import loading
from kdrun.store import files
from kdrun.store.model_store import Store, key
from kdrun.store.record import Listener
from kdrun.train.metrics import TASKS
from kdrun.train.runtime import Runtime
from kdrun.train.taps import Renormalized, Tapped, freeze

Config = dict[str, Any]
Notice = Callable[[str], None]

SHAPE = ("channels", "classes", "size")


def check_nodes(config: Config) -> None:
    """Refuses what the classes named in ``config`` would not take; reads no data, builds no model.

    Raises:
        ConfigError: naming the key.
    """
    trust, teacher = config["trust"], config["teacher"]
    check(config["dataset"], "dataset", trust=trust)
    check(config["student"], "student", SHAPE, trust, drop=TEACHER)
    check(config["method"], "method", trust=trust)
    check(config["optimizer"], "optimizer", trust=trust)
    check(config["schedule"], "schedule", trust=trust)
    if teacher:
        check(teacher, "teacher", SHAPE, trust, drop=TEACHER)
        check(teacher["recipe"]["optimizer"], "teacher.recipe.optimizer", trust=trust)
        check(teacher["recipe"]["schedule"], "teacher.recipe.schedule", trust=trust)


def check_accuracies(config: dict[str, Any]) -> None:
    """Refuses what stands for an accuracy in the config of a classification and is none.

    Raises:
        ConfigError: naming the key.
    """
    said = {"teacher.recipe.stop_at": config["teacher"]["recipe"]["stop_at"]} if config["teacher"] else {}
    for model, claims in (config["claims"] or {}).items():
        told = claims if isinstance(claims, dict) else {"": claims}
        said |= {f"claims.{model}.{name}".rstrip("."): value for name, value in told.items() if name != "implausible"}
    for where, value in said.items():
        if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
            raise ConfigError(where, f"{value!r} is not an accuracy in [0, 1]")


def dataset(config: Config) -> Source:
    """Returns the data set of ``config``, not read yet."""
    source: Source = build(config["dataset"], where="dataset", trust=config["trust"])
    return source


def method(config: Config, source: Source) -> Method:
    """Returns the method of ``config``, for a look at it: what it needs and what it is for.

    Raises:
        ConfigError: if it does not fit the data set's task, or has no teacher where it needs one.
    """
    built: Method = build(config["method"], where="method", trust=config["trust"])
    name, data = config["method"]["name"], config["dataset"]["name"]
    if built.task != source.task:
        raise ConfigError("method", f"{name} is for {built.task}, dataset {data} is for {source.task}")
    if built.needs_teacher and not config["teacher"]:
        raise ConfigError("teacher", f"method {name} needs one; choose it with teacher=NAME (kdrun ls teacher)")
    return built


def plans(config: Config) -> tuple[Plan, Plan]:
    """Returns the student's plan and the teachers'."""
    node = {name: config[name] for name in ("epochs", "batch_size", "optimizer", "schedule")} | {"stop_at": None}
    teacher, fast = config["teacher"], config["fast_dev_run"]
    student = Plan(node, config["seed"], few=True, fast=fast)
    return student, Plan(teacher["recipe"], teacher["seed"], few=False, fast=fast) if teacher else student


def assemble(config: Config, data: Data, runtime: Runtime, listen: Listener, notice: Notice) -> Experiment:
    """Returns the experiment that ``config`` describes, on ``data``, its teacher yet to come."""
    plan, teacher_plan = plans(config)
    store = Store(Path(config["out"]) / "models", runtime.interrupt, notice)
    trust = tuple(config["trust"])
    node = config["student"]
    student = fresh(node, plan.seed, data.source, runtime.device, trust)
    if runtime.compile:
        student.compile_batches(config["batch_size"])
    return Experiment(data, runtime, store, student, node, None, plan, teacher_plan, trust, listen, notice)


def check_batches(config: Config, data: Data) -> None:
    """Refuses batches that are larger than what they are drawn from, before anything is trained.

    Raises:
        ConfigError: naming the key.
    """
    check_batch(config["batch_size"], data.few)
    if config["teacher"] and not config["teacher"]["checkpoint"]:
        check_batch(config["teacher"]["recipe"]["batch_size"], data.train, "teacher.recipe.batch_size")


def tried(
    config: Config, runtime: Runtime, listen: Listener, notice: Notice
) -> tuple[Experiment, Node | None, list[Sketch]]:
    """Builds all of a run and goes through each of its stages once, on noise; reads no data.

    Returns:
        The experiment on noise; the teacher's node, None where the method asks none; sketches of all stages.

    Raises:
        ConfigError: if something is at fault or does not fit together.
        InputError: if ``teacher.checkpoint`` is no file.
    """
    check_nodes(config)
    source = dataset(config)
    if TASKS[source.task][0].percent:
        check_accuracies(config)
    wanted = method(config, source)
    teacher = config["teacher"] if wanted.needs_teacher else None
    if config["teacher"] and type(wanted).needs_teacher and not wanted.needs_teacher:
        notice(f"method {config['method']['name']} as configured never asks the teacher; it is left out")
    if twins(config, teacher):
        notice(f"teacher and student are one net and begin as one: both have seed {config['seed']}")
    mock = assemble(config, noise(source).to(runtime.device), runtime, listen, notice)
    return mock, teacher, rehearsed(mock, config, teacher)


def rehearsed(exp: Experiment, config: Config, teacher: Node | None) -> list[Sketch]:
    """Returns the stages of the whole run, its teacher's among them, each gone through once on noise.

    Raises:
        ConfigError: if model, taps and method do not fit together.
    """
    if teacher and teacher["checkpoint"]:
        checkpoint(teacher)
    return rehearse(exp, config["method"], config["student"]["name"], teacher)


def twins(config: Config, teacher: Node | None) -> bool:
    """Returns whether the student begins with the very weights that the teacher began with."""
    if not teacher or teacher["checkpoint"]:
        return False
    return bool(teacher["seed"] == config["seed"] and bare(teacher) == bare(config["student"]))


def models(exp: Experiment, teacher: Node | None) -> dict[str, Tapped]:
    """Returns the untrained models of a run by their role."""
    taught = {"teacher": exp.fresh(teacher, exp.teacher_plan.seed, "teacher")} if teacher else {}
    return {**taught, "student": exp.student}


def teach(exp: Experiment, node: Node | None) -> Experiment:
    """Returns ``exp`` with the teacher of ``node``: brought along, from the store, or trained now; none for None."""
    if node is None:
        return exp
    if node["checkpoint"]:
        return exp.taught_by(brought(exp, node))
    made, wanted = exp.trained(node), node["recipe"]["stop_at"]
    if wanted is not None and (best := made.scores[exp.main.name]) < wanted:
        exp.notice(f"teacher {node['name']} ended at {best:.4g} without reaching teacher.recipe.stop_at={wanted}")
    return exp.taught_by(made)


def checkpoint(node: Node) -> Path:
    """Returns the file of weights that ``teacher.checkpoint`` means: itself, or that in a run or model folder.

    Raises:
        InputError: if there is none; never a teacher with random weights.
    """
    path = Path(node["checkpoint"])
    inside = [path / name for name in ("student.safetensors", "model.safetensors")]
    found = next((file for file in [path, *inside] if file.is_file()), None)
    if found is None:
        raise InputError("teacher.checkpoint", f"no such file '{path}'; leave it out to have the teacher trained")
    return found


def brought(exp: Experiment, node: Node) -> Trained:
    """Returns the teacher from the file that the user brought along, its validation score measured and said.

    Raises:
        InputError: if the file is unfit.
        ConfigError: if only one of its mean and std is given, or not one number per channel.
    """
    path = checkpoint(node)
    net = exp.fresh(node, 0, "teacher")
    loading.fill(net.model, loading.read(path), path, "teacher.checkpoint")
    source, look = exp.data.source, (node["mean"], node["std"])
    for name, values in zip(("mean", "std"), look, strict=True):
        if any(look) and len(values or ()) != source.channels:
            raise ConfigError(f"teacher.{name}", f"takes {source.channels} numbers, one per channel, beside the other")
    model = Renormalized(net, (source.mean, source.std), look) if any(look) else net
    model = freeze(model.to(exp.runtime.device))
    scores = exp.scores(model)
    main = exp.main
    exp.notice(f"teacher {node['name']} from {path}: {main.name} {main.text(scores[main.name])} on validation images")
    return Trained(model, node["name"], key({"file": files.digest(path), "look": look}), scores)


def alone(exp: Experiment, config: Config) -> Trained | None:
    """Returns the same student trained alone from the same initial weights; None where no baseline is wanted."""
    return exp.trained(config["student"], exp.alone, None, exp.plan) if config["baseline"] else None


def is_alone(exp: Experiment, config: Config) -> bool:
    """Returns whether the run trains nothing but the student alone, which the store may have already."""
    own = exp.fields(config["student"], config["method"], exp.teacher, exp.plan)
    return own == exp.fields(config["student"], exp.alone, None, exp.plan)
