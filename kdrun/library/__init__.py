"""Distillation of your own modules without a config; stages, training loop and record are those of any other run."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
from torch import Tensor, nn

from kdrun.config.build import Builder, is_node
from kdrun.config.root import Root
from kdrun.config.values import check_value
from kdrun.core.experiment import Experiment
from kdrun.core.models import Plan, Trained, reads
from kdrun.core.rehearsal import Rehearsal
from kdrun.core.teacher_table import Tables
from kdrun.data.source import Source
from kdrun.data.splits import Data
from kdrun.data.tensors import Tensors
from kdrun.errors import ConfigError
from kdrun.library.describe import (
    check_fit,
    check_shape,
    class_name,
    described,
    fields_of,
    pieces,
)
from kdrun.methods.base import AnyMethod
from kdrun.report.display import Display
from kdrun.run.run import conclude, network
from kdrun.store import weights
from kdrun.store.checkpoint import journals
from kdrun.store.format import RECORD_FORMAT
from kdrun.store.model_store import ModelStore
from kdrun.store.record import Record, Row, versions
from kdrun.store.run_folder import refuse_other_fields
from kdrun.train.loop import Recipe
from kdrun.train.runtime import Interrupt, Runtime, pick
from kdrun.train.schedules import Constant
from kdrun.train.stage import Scores
from kdrun.train.taps import Renormalized, Tapped, freeze

CONSTANT = Constant()


@dataclass(frozen=True)
class Distilled:
    """The result of a distillation.

    Args:
        student: the module that was passed in, with the weights of its best epoch, in eval mode.
        summary: the content of a run's summary.json. Its ``models`` holds for ``teacher`` and ``student`` the scores on
            the test and the validation split, parameters, FLOPs of one image and seconds of training.
        rows: one row per epoch: stage, epoch, seconds, mean losses, validation scores.
    """

    student: nn.Module
    summary: dict[str, Any]
    rows: list[Row]

    @property
    def test(self) -> Scores:
        """The student's scores on the test split: ``top1`` in [0, 1], ``loss`` in nats, and so on."""
        scores: Scores = self.summary["models"]["student"]["test"]
        return scores


def distill(
    student: nn.Module,
    teacher: nn.Module | None,
    method: AnyMethod,
    data: Source | tuple[Tensor, Tensor],
    *,
    epochs: int = 20,
    batch_size: int = 64,
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = torch.optim.Adam,
    schedule: Callable[[float], float] = CONSTANT,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    folder: str | Path | None = None,
    progress: bool = True,
) -> Distilled:
    """Trains ``student`` under ``teacher`` by ``method`` and tests both; the student keeps its best epoch's weights.

    A tenth of the training images is the validation split, which selects the best epoch; the test images are used only
    at the end. The modules are moved to the device and stay there. The teacher is frozen. Torch's global random
    generators are left unchanged.

    Args:
        student: maps images (N, C, H, W) to logits (N, classes); a ``Tapped`` if the method needs its features.
        teacher: likewise; a ``Renormalized`` if it was trained with another normalization; None for no teacher.
        method: the method, such as ``KD(temperature=4)``; make a new one for each call.
        data: uint8 images (N, C, H, H) and their labels (N,), or any data set, such as ``Tensors`` with its options.
        epochs: number of epochs, for stages that set no number of their own.
        batch_size: images per step.
        optimizer: makes the optimizer from a list of parameters, such as ``partial(torch.optim.SGD, lr=0.1)``.
        schedule: maps progress in [0, 1] to a factor of the learning rate, as in ``kdrun.train.schedules``.
        seed: the seed of the batches and of the method; the weights of the modules are not changed by it.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        precision: ``fp32``, or ``bf16`` for autocast in training.
        folder: the folder of the record. If it holds a part of the same training, that is resumed, and the current
            weights of the student are not used. If None, nothing is stored.
        progress: whether to show progress.

    Raises:
        ConfigError: if the parts do not fit together; nothing has been trained then.
        InputError: if the data cannot be used, or ``folder`` holds another training.
        TrainingError: if a loss is no longer finite.
        Interrupted: if a signal arrived; with a ``folder``, the same call resumes the training.
    """
    if not isinstance(method, AnyMethod):
        raise ConfigError("method", f"{method!r} is no method; use one such as KD()")
    recipe = {"epochs": epochs, "batch_size": batch_size}
    check_settings({**recipe, "seed": seed, "device": device})
    check_value(precision, Literal["fp32", "bf16"], "precision")
    node = {**recipe, "optimizer": described(optimizer), "schedule": described(schedule)}
    plan = ObjectPlan(node, seed, subset=True, objects=Recipe(epochs, batch_size, optimizer, schedule))
    source = data if isinstance(data, Source) else Tensors(*data)
    with ExitStack() as stack:
        interrupt, place = stack.enter_context(stoppable()), stack.enter_context(kept(folder))
        stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
        display = stack.enter_context(Display()) if progress else None
        runtime = Runtime(pick(device), precision, torch.get_num_threads(), interrupt=interrupt)
        with interrupt.at_once("reading the data"):
            read = Data.read(source)
        exp = Experiment(
            data=read.to(runtime.device),
            runtime=runtime,
            store=ModelStore(place / "models", interrupt, display.notice if display else discard),
            builder=Builder(),
            student=tapped(student).to(runtime.device),
            student_node={},
            teachers=(),
            plan=plan,
            teacher_plan=plan,
            reads=reads_of(method),
            tables=Tables(place / "models" / "tables", display.notice if display else discard),
            listen=display.listen if display else discard,
            notice=display.notice if display else discard,
        )
        check_fit(exp, method, teacher)
        exp = exp.taught_by(frozen(exp, teacher)) if teacher else exp
        return train_student(exp, method, place, figures=folder is not None)


@dataclass(frozen=True)
class ObjectPlan(Plan):
    """A plan whose optimizer and schedule are objects; its node only describes them for the record."""

    objects: Recipe = field(kw_only=True)

    def recipe(self, builder: Builder) -> Recipe:
        return replace(self.objects, epochs=self.node["epochs"], batch_size=self.node["batch_size"])


def train_student(exp: Experiment, method: AnyMethod, folder: Path, *, figures: bool) -> Distilled:
    """Rehearses, trains and tests the student of ``exp``; the record is in ``folder``, with ``figures`` if wanted."""
    Rehearsal.of(exp).follow_dry(deepcopy(method))
    config, key = {**pieces(exp, method), "figures": figures}, fields_of(exp, method)
    record = Record(folder, f"{config['student']['name']} by {config['method']['name']}", exp.listen)
    try:
        refuse_other_fields(folder, key)
        about = {"overrides": [], "versions": versions(), "environment": exp.runtime.environment()}
        record.about(status="running", format=RECORD_FORMAT, started=time.time(), fields=key, **about)
        record.config(config)
        outcome = exp.follow(method, journals(record, key))
        summary = conclude(exp, config, method, None, outcome, record, [])
        return Distilled(network(outcome.deployed), summary, record.rows)
    finally:
        record.close()


def check_settings(settings: dict[str, Any]) -> None:
    """Checks ``settings`` as the keys of the same names in a run's config.

    Raises:
        ConfigError: naming the key, if its value is not accepted.
    """
    hints = get_type_hints(Root, include_extras=True)
    for name, value in settings.items():
        check_value(value, hints[name], name)


def frozen(exp: Experiment, teacher: nn.Module) -> Trained:
    """Returns ``teacher`` frozen, as the trained model that methods use."""
    model = freeze((teacher if isinstance(teacher, Renormalized) else tapped(teacher)).to(exp.runtime.device))
    check_shape(exp, model, "teacher")
    return Trained(model, class_name(model), weights.digest(model.state_dict(), repr(model)), exp.scores(model))


def reads_of(method: AnyMethod) -> frozenset[str]:
    """Returns what ``method`` reads of models, including what the methods nested in it read."""
    return method.reads.union(*(reads(Builder(), value) for value in vars(method).values() if is_node(value)))


def tapped(model: nn.Module) -> Tapped:
    return model if isinstance(model, Tapped) else Tapped(model)


@contextmanager
def kept(folder: str | Path | None) -> Iterator[Path]:
    """Yields ``folder``, or a temporary folder if it is None."""
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="kdrun-", ignore_cleanup_errors=True) as passing:
        yield Path(passing)


@contextmanager
def stoppable() -> Iterator[Interrupt]:
    """Yields an interrupt; it records signals only in the main thread, because other threads cannot handle them."""
    if threading.current_thread() is threading.main_thread():
        with Interrupt() as interrupt:
            yield interrupt
    else:
        yield Interrupt()


def discard(*message: Any) -> None:
    """Ignores a message."""
