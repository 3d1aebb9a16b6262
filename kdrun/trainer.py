"""The one training loop. It knows stages and updates, and no method by name.

for epoch in the stage's epochs:
for batch in its stream:
given = what the frozen models say of the batch
for update in its updates:
loss -> backward -> step
score on the validation split, remember the best epoch
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdrun.errors import Interrupted, TrainingError
from kdrun.runtime import Runtime, generators, set_generators
from kdrun.stage import Batch, Scores, Stage, State, Terms, Update


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, whatever is taught: the part of a run that a stage's updates share.

    Args:
        epochs: passes over the training data of a stage that names no number of its own.
        batch_size: images per step.
        optimizer: makes the optimizer of the given parameters.
        schedule: progress of the stage in [0, 1] -> factor of every learning rate.
        stop_at: a validation score that ends the training early; None trains all epochs.
        fast: one epoch of two batches of every stage, to see that all holds together.
    """

    epochs: int
    batch_size: int
    optimizer: Callable[[list[nn.Parameter]], Optimizer]
    schedule: Callable[[float], float]
    stop_at: float | None = None
    fast: bool = False


class Journal(Protocol):
    """Where a stage's training is written down and taken up again."""

    def load(self) -> State | None:
        """Returns the last saved state of this stage, None where it begins."""

    def save(self, state: State) -> None:
        """Keeps ``state`` in place of the one before."""

    def row(self, values: dict[str, Any]) -> None:
        """Adds a row: one epoch's terms, scores, learning rate and seconds."""

    def tick(self, done: float, epoch: int) -> None:
        """Hears, after each step, how much of the stage is done, in [0, 1], and in which epoch it is."""


@dataclass
class Training:
    """A stage under way: all that changes while it is trained, and nothing else."""

    stage: Stage
    recipe: Recipe
    runtime: Runtime
    optimizers: list[Optimizer]
    epoch: int = 1
    step: int = 0  # batches done in this epoch
    totals: dict[str, Tensor] = field(default_factory=dict)  # sums over the epoch so far, on the device
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    scores: Scores = field(default_factory=dict)
    best: State | None = None

    @classmethod
    def begun(cls, stage: Stage, recipe: Recipe, runtime: Runtime) -> Training:
        """Returns ``stage`` at its beginning."""
        optimizers: list[Optimizer] = []
        for update in stage.updates:
            if isinstance(update.optimizer, Update):
                place = next(place for place, other in enumerate(stage.updates) if other is update.optimizer)
                optimizers.append(optimizers[place])
                continue
            make = update.optimizer or recipe.optimizer
            optimizers.append(make(list(update.params)))
            for group in optimizers[-1].param_groups:
                group.setdefault("initial_lr", group["lr"])
        return cls(stage, recipe, runtime, optimizers)

    def state(self) -> State:
        """Returns everything that the rest of the stage depends on."""
        names = ("epoch", "step", "totals", "counts", "seconds", "scores", "best")
        return {
            **{name: getattr(self, name) for name in names},
            "modules": self.stage.modules.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generators": generators(),
            "environment": self.runtime.environment(),
        }

    def restore(self, state: State) -> None:
        """Takes up the stage where ``state`` left it."""
        for name in ("epoch", "step", "counts", "seconds", "scores", "best"):
            setattr(self, name, state[name])
        self.totals = {name: total.to(self.runtime.device) for name, total in state["totals"].items()}
        self.stage.modules.load_state_dict(state["modules"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        set_generators(state["generators"])

    @property
    def over(self) -> bool:
        """Whether the stage has come to its end; derived, so that a resume with more epochs just goes on."""
        return self.epoch > self.stage.epochs or (self.epoch > 1 and self.stage.until(self.scores))

    def progress(self) -> float:
        """Returns how much of the stage is done, in [0, 1]."""
        return min(1.0, (self.epoch - 1 + self.step / len(self.stage.stream)) / self.stage.epochs)


def fit(stage: Stage, recipe: Recipe, runtime: Runtime, journal: Journal) -> Scores:
    """Trains ``stage`` to its end and leaves its modules as they were after the best epoch.

    Goes on from the journal's state where it has one, with the same bits as if it had never stopped.

    Returns:
        The scores of the kept epoch, its number as ``epoch``, and the seconds of training as ``seconds``.

    Raises:
        TrainingError: if a loss or a weight stops being finite; the message names stage, epoch and term.
        Interrupted: if a signal asked to stop; the state at this step is saved.
    """
    training = Training.begun(stage, recipe, runtime)
    if state := journal.load():
        training.restore(state)
    if not training.over:
        train(training, journal)
    return keep(training)


def train(training: Training, journal: Journal) -> None:
    """Trains to the end of the stage, from wherever it is, and saves it there."""
    stage, clock = training.stage, Clock(training, journal)
    while not training.over:
        stage.modules.train()
        for batch in stage.stream.epoch(training.epoch, training.step):
            one_step(training, batch)
            training.step += 1
            clock.tick()
        close_epoch(training, journal, clock)
    clock.save()


def one_step(training: Training, batch: Batch) -> None:
    """Runs every update of the stage on ``batch``, each after the step of the one before."""
    stage, factor = training.stage, training.recipe.schedule(training.progress())
    with torch.no_grad(), training.runtime.autocast():
        given = stage.given(batch)
    for update, optimizer in zip(stage.updates, training.optimizers, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        for _ in range(update.repeat):
            with training.runtime.autocast():
                terms = update.loss(batch, given)
            if terms:
                descend(update, optimizer, terms)
                count(training, terms)


def descend(update: Update, optimizer: Optimizer, terms: Terms) -> None:
    """Takes one step of ``optimizer`` down the sum of ``terms``; no other player's parameters get a gradient."""
    optimizer.zero_grad(set_to_none=True)
    loss = reduce(add, terms.values())
    moved = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.autograd.backward(loss, inputs=moved)
    optimizer.step()
    if update.after_step:
        with torch.no_grad():
            update.after_step()


def count(training: Training, terms: Terms) -> None:
    """Adds ``terms`` to the epoch's totals without reading them: that would wait for the device."""
    for name, term in terms.items():
        value = term.detach().float()
        training.totals[name] = training.totals[name] + value if name in training.totals else value
        training.counts[name] = training.counts.get(name, 0) + 1


def means(training: Training) -> Scores:
    """Returns the mean of each term over the epoch so far; reads the device, once.

    Raises:
        TrainingError: if a term or a weight is not finite.
    """
    where = f"stage {training.stage.name}, epoch {training.epoch}"
    rate = f"lr={training.optimizers[0].param_groups[0]['lr']:g}" if training.optimizers else ""
    names = list(training.totals)
    values = torch.stack([training.totals[name] for name in names]).tolist() if names else []
    for name, value in zip(names, values, strict=True):
        if not torch.isfinite(torch.tensor(value)):
            raise TrainingError(where, f"loss {name} is not finite ({rate}); try a smaller learning rate")
    weights = [
        parameter.detach().abs().amax() for parameter in training.stage.modules.parameters() if parameter.numel()
    ]
    if weights and not torch.isfinite(torch.stack(weights)).all():
        raise TrainingError(where, f"a weight is not finite ({rate}); try a smaller learning rate")
    return {name: value / training.counts[name] for name, value in zip(names, values, strict=True)}


def close_epoch(training: Training, journal: Journal, clock: Clock) -> None:
    """Scores the epoch, writes its row, remembers it where it is the best, and turns to the next."""
    stage, terms = training.stage, means(training)
    training.scores = stage.evaluate() if stage.evaluate else {}
    clock.stop()
    rates = {f"lr/{place}": optimizer.param_groups[0]["lr"] for place, optimizer in enumerate(training.optimizers)}
    losses = {f"loss/{name}": value for name, value in terms.items()}
    scores = {f"val/{name}": value for name, value in training.scores.items()}
    journal.row({"epoch": training.epoch, "seconds": training.seconds, **losses, **scores, **rates})
    if better(stage.select, training.scores, training.best):
        modules = {name: tensor.detach().clone() for name, tensor in stage.modules.state_dict().items()}
        training.best = {"epoch": training.epoch, "scores": training.scores, "modules": modules}
    training.epoch, training.step, training.totals, training.counts = training.epoch + 1, 0, {}, {}


def better(select: str | None, scores: Scores, best: State | None) -> bool:
    """Returns whether ``scores`` beat those of the best epoch; the earlier epoch keeps a tie."""
    if select is None:
        return False
    name, sign = select.removeprefix("-"), -1 if select.startswith("-") else 1
    return best is None or sign * scores[name] > sign * best["scores"][name]


def keep(training: Training) -> Scores:
    """Puts the best epoch's weights back and returns its scores; the last epoch's where the stage selects none."""
    best = training.best or {"epoch": training.epoch - 1, "scores": training.scores, "modules": None}
    if best["modules"]:
        training.stage.modules.load_state_dict(best["modules"])
    return {**best["scores"], "epoch": best["epoch"], "seconds": training.seconds}


class Clock:
    """Counts the seconds of training, and saves when enough of them are at stake or a signal came."""

    def __init__(self, training: Training, journal: Journal) -> None:
        self.training, self.journal = training, journal
        self.started = self.saved = time.monotonic()

    def stop(self) -> None:
        """Adds the time since the last call to the training's seconds."""
        now = time.monotonic()
        self.training.seconds += now - self.started
        self.started = now

    def tick(self) -> None:
        """Hears that a step is done."""
        training, runtime = self.training, self.training.runtime
        self.journal.tick(training.progress(), training.epoch)
        if runtime.interrupt.signum is not None:
            self.save()
            raise Interrupted(runtime.interrupt.signum, f"stage {training.stage.name}, epoch {training.epoch}")
        if time.monotonic() - self.saved >= runtime.save_seconds:
            self.save()

    def save(self) -> None:
        """Saves the training as it stands; a state that is not finite is never written."""
        self.stop()
        means(self.training)
        self.journal.save(self.training.state())
        self.saved = time.monotonic()
