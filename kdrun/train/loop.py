"""The one training loop, shared by all methods::

    for epoch in the stage's epochs:
        for batch in the stage's stream:
            step = the batch, and the models' outputs on it; a model runs again only after its weights have changed
            for update in the stage's updates:
                terms = update.loss(step)
                backpropagate their sum to the update's own parameters, and step its optimizer
        score on the validation split, and remember the weights of the best epoch

At the end of a stage its modules hold the weights of the best epoch. A stopped stage resumes at its last saved step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdrun.errors import InputError, TrainingError
from kdrun.train.metrics import finite
from kdrun.train.runtime import Runtime, generators, set_generators
from kdrun.train.stage import Batch, Scores, Stage, State, Step, Terms, Update


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, apart from its losses: the settings that all updates of a stage share.

    Args:
        epochs: passes over the training data, for stages that set no number of their own.
        batch_size: images per step.
        optimizer: makes an optimizer from a list of parameters.
        schedule: maps the progress of the stage, in [0, 1], to a factor for every learning rate.
        stop_at: the validation score that ends the training early; None trains all epochs.
        fast: whether every stage is cut to one epoch of two batches, as a quick check that everything runs.
    """

    epochs: int
    batch_size: int
    optimizer: Callable[[list[nn.Parameter]], Optimizer]
    schedule: Callable[[float], float]
    stop_at: float | None = None
    fast: bool = False


class Journal(Protocol):
    """Saves the state of a stage, and loads it when the stage is resumed."""

    def load(self) -> State | None:
        """Returns the last saved state of this stage; None if there is none."""

    def misfit(self) -> InputError:
        """Returns the error that the loaded state does not fit this stage."""

    def save(self, state: State) -> None:
        """Saves ``state`` in place of the previous one."""

    def row(self, values: dict[str, Any]) -> None:
        """Adds a row: one epoch's terms, scores, learning rates and seconds."""

    def tick(self, done: float, epoch: int) -> None:
        """Called after each step with the progress of the stage, in [0, 1], and the number of the epoch."""


def fit(stage: Stage, recipe: Recipe, runtime: Runtime, journal: Journal) -> Scores:
    """Trains ``stage`` to its end and leaves the weights of the best epoch in its modules.

    If the journal has a saved state, training resumes from it and gives the same bits as an unbroken training.

    Returns:
        The scores of the best epoch, its number as ``epoch``, and the costs of the stage, see ``COSTS``.

    Raises:
        InputError: if the saved state does not fit the stage.
        TrainingError: if a loss, a score or a part of the state is no longer finite; the message names stage, epoch
            and what it is.
        Interrupted: if a signal arrived; the state after the current step is saved.
    """
    training = Training.begin(stage, recipe, runtime)
    if state := journal.load():
        try:
            training.restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as fault:
            raise journal.misfit() from fault
    clock, begun_at = Clock(training, journal), training.epoch
    while not training.over:
        one_epoch(training, journal, clock)
    if training.epoch > begun_at:
        clock.save()
    return training.keep()


def one_epoch(training: Training, journal: Journal, clock: Clock) -> None:
    """Trains from the current step to the end of the epoch."""
    training.stage.train_mode()
    for batch in training.stage.stream.epoch(training.epoch, training.step):
        one_step(training, batch)
        training.step += 1
        clock.tick()
    close_epoch(training, journal, clock)


def one_step(training: Training, batch: Batch) -> None:
    """Runs the updates of the stage on ``batch``, in order: each sees the weights that the previous one has changed."""
    stage, factor = training.stage, training.recipe.schedule(training.progress())
    if training.runtime.compile:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    step = Step(batch, stage)
    for update, optimizer in zip(stage.updates, training.optimizers, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (factor if update.scheduled else 1.0)
        for _ in range(update.repeat):
            with training.runtime.autocast():
                terms = update.loss(step)
            if terms:
                descend(update, optimizer, terms)
                step.moved(update)
                training.count(stage.named(update, terms))


def descend(update: Update, optimizer: Optimizer, terms: Terms) -> None:
    """Takes one step of ``optimizer`` on the sum of ``terms``; only the optimizer's parameters get gradients."""
    optimizer.zero_grad(set_to_none=True)
    loss = reduce(add, terms.values())
    moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.autograd.backward(loss, inputs=moved)
    optimizer.step()
    if update.after_step:
        with torch.no_grad():
            update.after_step()


def close_epoch(training: Training, journal: Journal, clock: Clock) -> None:
    """Scores the epoch, writes its row, keeps a copy of its weights if it is the best, and starts the next."""
    stage, terms = training.stage, training.means()
    where = f"stage {stage.name}, epoch {training.epoch}"
    training.scores = finite(stage.evaluate() if stage.evaluate else {}, where)
    clock.stop()
    rates = {f"lr/{number}": optimizer.param_groups[0]["lr"] for number, optimizer in enumerate(training.optimizers)}
    losses = {f"loss/{name}": value for name, value in terms.items()}
    scores = {f"val/{name}": value for name, value in training.scores.items()}
    journal.row({"epoch": training.epoch, "seconds": training.train_seconds, **losses, **scores, **rates})
    if training.is_best():
        modules = {name: tensor.detach().clone() for name, tensor in stage.modules.state_dict().items()}
        training.best = {"epoch": training.epoch, "scores": training.scores, "modules": modules}
    training.epoch, training.step, training.totals, training.counts = training.epoch + 1, 0, {}, {}


COSTS = ("train_seconds", "train_cpu_seconds", "teacher_images", "teacher_images_run")
"""The costs of a training: wall-clock seconds, CPU seconds of this process, and teacher images.

Teacher images count the images that the outputs of frozen models were asked for: they depend on the method alone. Those
that frozen models were run on depend on what a teacher table knew before.
"""

STATE = ("epoch", "step", "totals", "counts", *COSTS, "scores", "best")
"""Attributes of ``Training`` that are saved beside its modules, optimizers and random generators."""


@dataclass
class Training:
    """The state of a stage in training: everything that changes from step to step."""

    stage: Stage
    recipe: Recipe
    runtime: Runtime
    optimizers: list[Optimizer]
    infinite: frozenset[str] = frozenset()  # buffers that were so before the first step, such as masks of attention
    epoch: int = 1
    step: int = 0  # batches done in this epoch
    totals: dict[str, Tensor] = field(default_factory=dict)  # sums over the epoch so far, on the device
    counts: dict[str, int] = field(default_factory=dict)
    train_seconds: float = 0.0
    train_cpu_seconds: float = 0.0
    teacher_images: int = 0
    teacher_images_run: int = 0
    scores: Scores = field(default_factory=dict)
    best: State | None = None

    @classmethod
    def begin(cls, stage: Stage, recipe: Recipe, runtime: Runtime) -> Training:
        """Returns the state of ``stage`` before its first step."""
        optimizers: list[Optimizer] = []
        for update in stage.updates:
            if isinstance(update.optimizer, Update):
                optimizers.append(optimizers[stage.updates.index(update.optimizer)])
                continue
            make = update.optimizer or recipe.optimizer
            optimizers.append(make(list(update.params)))
            for group in optimizers[-1].param_groups:
                group.setdefault("initial_lr", group["lr"])
        buffers = {name: tensor for name, tensor in stage.modules.named_buffers() if tensor.is_floating_point()}
        flags = [torch.isfinite(tensor).all().to(runtime.device) for tensor in buffers.values()]
        are_finite = torch.stack(flags).tolist() if flags else []
        infinite = frozenset(name for name, is_finite in zip(buffers, are_finite, strict=True) if not is_finite)
        return cls(stage, recipe, runtime, optimizers, infinite)

    def state(self) -> State:
        """Returns everything that the rest of the stage depends on."""
        return {
            **{name: getattr(self, name) for name in STATE},
            "modules": self.stage.modules.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generators": generators(),
            "environment": self.runtime.environment(),
        }

    def restore(self, state: State) -> None:
        """Sets the stage to the saved ``state``.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError: if it is not that of this stage.
        """
        for name in STATE:
            setattr(self, name, state[name])
        self.totals = {name: total.to(self.runtime.device) for name, total in self.totals.items()}
        self.stage.modules.load_state_dict(state["modules"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
            check_shapes(optimizer)
        if any(total.dim() or name not in self.counts for name, total in self.totals.items()):
            raise ValueError("the sums of the epoch so far are not numbers")
        if self.best is not None and self.best.keys() != {"epoch", "scores", "modules"}:
            raise ValueError("the best epoch so far lacks an entry")
        set_generators(state["generators"])

    @property
    def over(self) -> bool:
        """Whether the stage has ended; computed, not stored, so that a finished stage can resume with more epochs."""
        return self.epoch > self.stage.epochs or (self.epoch > 1 and self.stage.until(self.scores))

    def progress(self) -> float:
        """Returns the part of the stage that is done, in [0, 1]."""
        return min(1.0, (self.epoch - 1 + self.step / len(self.stage.stream)) / self.stage.epochs)

    def count(self, terms: Terms) -> None:
        """Adds ``terms`` to the epoch's totals, on the device: reading their values here would wait for the GPU."""
        for name, term in terms.items():
            value = term.detach().float()
            self.totals[name] = self.totals[name] + value if name in self.totals else value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> Scores:
        """Returns the mean of each term over the epoch so far; waits for the device, once for all that it reads.

        Raises:
            TrainingError: if a term, a weight, a buffer or the state of an optimizer is not finite.
        """
        where = f"stage {self.stage.name}, epoch {self.epoch}"
        rate = f"lr={self.optimizers[0].param_groups[0]['lr']:g}" if self.optimizers else ""
        names, tensors = list(self.totals), self.tensors()
        flags = [torch.isfinite(tensor.detach().abs().amax()).to(self.runtime.device) for _, tensor in tensors]
        sums = [self.totals[name] for name in names]
        read = torch.stack([*sums, *(flag.to(torch.float32) for flag in flags)]).tolist() if sums or flags else []
        for name, value in zip(names, read, strict=False):
            if not math.isfinite(value):
                raise TrainingError(where, f"loss {name} is not finite ({rate}); try a smaller learning rate")
        for (what, _), is_finite in zip(tensors, read[len(names) :], strict=True):
            if not is_finite:
                more = " or weight decay" if " of optimizer " in what else ""
                raise TrainingError(where, f"{what} is not finite ({rate}); try a smaller learning rate{more}")
        return {name: value / self.counts[name] for name, value in zip(names, read, strict=False)}

    def tensors(self) -> list[tuple[str, Tensor]]:
        """Returns all tensors of the state that have to be finite, each after what it is."""
        named: list[tuple[str, Tensor]] = [("a weight", weight) for weight in self.stage.modules.parameters()]
        buffers = dict(self.stage.modules.named_buffers())
        named += [(f"buffer {name}", tensor) for name, tensor in buffers.items() if name not in self.infinite]
        for update, optimizer in zip(self.stage.updates, self.optimizers, strict=True):
            what = f"{{}} of optimizer {type(optimizer).__name__.lower()} of the {update.player}"
            for state in optimizer.state.values():
                named += [(what.format(name), value) for name, value in state.items() if isinstance(value, Tensor)]
        return [(what, tensor) for what, tensor in named if tensor.is_floating_point() and tensor.numel()]

    def is_best(self) -> bool:
        """Returns whether this epoch is better than the best so far; in a tie the earlier epoch is kept."""
        if self.stage.select is None:
            return False
        name, sign = self.stage.select.removeprefix("-"), -1 if self.stage.select.startswith("-") else 1
        return self.best is None or sign * self.scores[name] > sign * self.best["scores"][name]

    def keep(self) -> Scores:
        """Loads the weights of the best epoch and returns its scores; the last epoch counts if nothing is selected."""
        best = self.best or {"epoch": self.epoch - 1, "scores": self.scores, "modules": None}
        if best["modules"]:
            self.stage.modules.load_state_dict(best["modules"])
        return {**best["scores"], "epoch": best["epoch"], **{name: getattr(self, name) for name in COSTS}}


def check_shapes(optimizer: Optimizer) -> None:
    """Refuses a loaded state of one of torch's optimizers whose tensors do not have the shapes of the parameters.

    Raises:
        RuntimeError: if so. Without this, torch would notice it in the next step.
    """
    if not type(optimizer).__module__.startswith("torch.optim"):
        return  # it may keep what it likes
    for parameter, entries in optimizer.state.items():
        for entry in entries.values():
            if isinstance(entry, Tensor):
                entry.expand(parameter.shape)


class Clock:
    """Adds up the costs of training, and saves at regular intervals and when a signal has arrived."""

    def __init__(self, training: Training, journal: Journal) -> None:
        self.training, self.journal = training, journal
        self.counted, self.saved = self.spent(), time.monotonic()

    def spent(self) -> tuple[float, float, int, int]:
        """Returns the readings of all clocks and counters, in the order of ``COSTS``."""
        stage = self.training.stage
        return time.monotonic(), time.process_time(), stage.teacher_images(), stage.teacher_images_run()

    def stop(self) -> None:
        """Adds the costs since the last call to those of the training."""
        spent = self.spent()
        for name, before, now in zip(COSTS, self.counted, spent, strict=True):
            setattr(self.training, name, getattr(self.training, name) + now - before)
        self.counted = spent

    def tick(self) -> None:
        """Called after each step: reports progress, and saves if it is time or a signal has arrived."""
        training, runtime = self.training, self.training.runtime
        self.journal.tick(training.progress(), training.epoch)
        if runtime.interrupt.signum is not None:
            self.save()
            runtime.interrupt.check(f"stage {training.stage.name}, epoch {training.epoch}")
        if time.monotonic() - self.saved >= runtime.save_seconds:
            self.save()

    def save(self) -> None:
        """Saves the current state; raises before it writes a state that is not finite."""
        self.stop()
        self.training.means()
        self.journal.save(self.training.state())
        self.saved = time.monotonic()
