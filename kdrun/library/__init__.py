"""Distillation of one's own modules, without a config: the stages, the loop and the record of any other run."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import torch
from torch import Tensor, nn

from kdrun.config.root import Root
from kdrun.config.values import fit
from kdrun.core.experiment import Experiment
from kdrun.core.models import Plan, Trained
from kdrun.core.rehearsal import Rehearsal, noise, small
from kdrun.data.source import Source
from kdrun.data.splits import Data
from kdrun.data.tensors import Tensors
from kdrun.errors import ConfigError
from kdrun.library.describe import check_fit, check_shape, described, digest, fields_of, named, pieces, refuse_another
from kdrun.methods.base import Method
from kdrun.report.display import Display
from kdrun.run.run import conclude
from kdrun.store.checkpoint import journals
from kdrun.store.model_store import Store
from kdrun.store.record import Record, Row, versions
from kdrun.train.runtime import Interrupt, Runtime, pick
from kdrun.train.schedules import Constant
from kdrun.train.stage import Scores
from kdrun.train.taps import Renormalized, Tapped, freeze
from kdrun.train.training import Recipe

CONSTANT = Constant()


@dataclass(frozen=True)
class Distilled:
    """What came of a distillation.

    Args:
        student: as it was after its best epoch, in eval mode: the very module that was given.
        summary: what stands in a run's summary.json: under ``models``, for ``teacher`` and ``student``, the scores on
            the test and the validation split, parameters, FLOPs of one image and seconds of training.
        rows: one per epoch: stage, epoch, seconds, mean losses, validation scores.
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
    method: Method,
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
    """Trains ``student`` under ``teacher`` by ``method``, tests both, and leaves the student at its best epoch.

    A tenth of the training images selects that epoch; the test images are looked at once, at the end. The modules are
    moved to the device and stay there; the teacher is frozen. Torch's global generators are left as they were.

    Args:
        student: maps images (N, C, H, W) to logits (N, classes); a ``Tapped`` where the method wants its features.
        teacher: likewise, or a ``Renormalized`` that sees images as it was trained to; None where nobody teaches.
        method: as ``KD(temperature=4)``; a new one for each call.
        data: uint8 images (N, C, H, H) and their labels (N,), or any data set, such as ``Tensors`` with its options.
        epochs: of each stage that sets no number of its own.
        batch_size: images per step.
        optimizer: makes it from parameters: ``partial(torch.optim.SGD, lr=0.1)``.
        schedule: progress in [0, 1] -> factor of the learning rate, as in ``kdrun.train.schedules``.
        seed: of batches and of all that the method draws; the modules come with their weights.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``auto``.
        precision: ``bf16`` for autocast in training.
        folder: of the record. Where it holds a part of this very training, that is gone on with, in place of the
            weights that the student came with. Where None, nothing is kept.
        progress: whether to say how far it is.

    Raises:
        ConfigError: if the pieces do not fit together; nothing has been trained then.
        InputError: if the data are unfit, or ``folder`` holds another training.
        TrainingError: if a loss stops being finite.
        Interrupted: if a signal asked to stop; with a ``folder``, the same call goes on.
    """
    if not isinstance(method, Method):
        raise ConfigError("method", f"{method!r} is no method; use one such as KD()")
    recipe = {"epochs": epochs, "batch_size": batch_size}
    check({**recipe, "seed": seed, "device": device, "precision": precision})
    node = {**recipe, "optimizer": described(optimizer), "schedule": described(schedule)}
    plan = Own(node, seed, few=True, made=Recipe(epochs, batch_size, optimizer, schedule))
    source = data if isinstance(data, Source) else Tensors(*data)
    with ExitStack() as stack:
        interrupt, place = stack.enter_context(stoppable()), stack.enter_context(kept(folder))
        stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
        display = stack.enter_context(Display()) if progress else None
        runtime = Runtime(pick(device), precision, torch.get_num_threads(), interrupt=interrupt)
        exp = Experiment(
            data=Data.read(source).to(runtime.device),
            runtime=runtime,
            store=Store(place / "models", interrupt, display.notice if display else ignore),
            student=tapped(student).to(runtime.device),
            student_node={},
            teacher=None,
            plan=plan,
            teacher_plan=plan,
            trust=(),
            listen=display.listen if display else ignore,
            notice=display.notice if display else ignore,
        )
        check_fit(exp, method, teacher)
        return train(exp.taught_by(taught(exp, teacher)) if teacher else exp, method, place)


@dataclass(frozen=True)
class Own(Plan):
    """A plan whose optimizer and schedule are objects; its node only describes them."""

    made: Recipe = field(kw_only=True)

    def recipe(self, where: str, trust: tuple[str, ...]) -> Recipe:
        return replace(self.made, epochs=self.node["epochs"], batch_size=self.node["batch_size"])


def train(exp: Experiment, method: Method, folder: Path) -> Distilled:
    """Rehearses, trains and tests, with its record in ``folder``."""
    rehearse(exp, method)
    config, key = pieces(exp, method), fields_of(exp, method)
    record = Record(folder, f"{config['student']['name']} by {config['method']['name']}", exp.listen)
    try:
        refuse_another(folder, key)
        record.config(config)
        about = {"overrides": [], "versions": versions(), "environment": exp.runtime.environment()}
        record.about(status="running", started=time.time(), fields=key, **about)
        scores = exp.follow(method, journals(record))
        summary = conclude(exp, config, method, None, scores, record, [])
        return Distilled(exp.student.model, summary, record.rows)
    finally:
        record.close()


def check(settings: dict[str, Any]) -> None:
    """Refuses what the keys of the same names in a run's config do not take."""
    hints = get_type_hints(Root, include_extras=True)
    for name, value in settings.items():
        fit(value, hints[name], name)


def taught(exp: Experiment, teacher: nn.Module) -> Trained:
    """Returns ``teacher`` frozen, as methods know it."""
    model = freeze((teacher if isinstance(teacher, Renormalized) else tapped(teacher)).to(exp.runtime.device))
    check_shape(exp, model, "teacher")
    return Trained(model, named(model), digest(model.state_dict(), repr(model)), exp.scores(model))


def rehearse(exp: Experiment, method: Method) -> None:
    """Goes through all stages on noise, with copies of what that would change.

    Raises:
        ConfigError: if the method cannot train the student.
    """
    parts = {part.name: getattr(exp, part.name) for part in fields(Experiment)}
    plan = replace(exp.plan, node=small(exp.plan.node))
    data = noise(exp.data.source).to(exp.runtime.device)
    changed = {"data": data, "student": deepcopy(exp.student), "plan": plan, "links": [], "notice": ignore}
    Rehearsal(**{**parts, **changed}).rehearse(deepcopy(method))


def tapped(model: nn.Module) -> Tapped:
    return model if isinstance(model, Tapped) else Tapped(model)


@contextmanager
def kept(folder: str | Path | None) -> Iterator[Path]:
    """Yields ``folder``, or one that is gone afterwards."""
    if folder is not None:
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="kdrun-", ignore_cleanup_errors=True) as passing:
        yield Path(passing)


@contextmanager
def stoppable() -> Iterator[Interrupt]:
    """Yields what hears signals; other threads than the main one cannot listen to them."""
    if threading.current_thread() is threading.main_thread():
        with Interrupt() as interrupt:
            yield interrupt
    else:
        yield Interrupt()


def ignore(*heard: Any) -> None:
    """Hears what nobody wants to know."""
