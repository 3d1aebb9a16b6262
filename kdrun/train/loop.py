"""The one training loop. It knows stages and updates, and no method by name::

for epoch in the stage's epochs:
for batch in its stream:
given = what the frozen models say of the batch
for update in its updates:
loss -> backward -> step
score on the validation split, remember the best epoch
"""

from __future__ import annotations

import time
from functools import reduce
from operator import add
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from kdrun.train.runtime import Runtime
from kdrun.train.stage import Batch, Scores, Stage, State, Terms, Update
from kdrun.train.training import Recipe, Training, better, count, keep, means


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


def fit(stage: Stage, recipe: Recipe, runtime: Runtime, journal: Journal) -> Scores:
    """Trains ``stage`` to its end and leaves its modules as they were after the best epoch.

    Goes on from the journal's state where it has one, with the same bits as if it had never stopped.

    Returns:
        The scores of the kept epoch, its number as ``epoch``, the seconds of training as ``seconds``, and as ``asked``
        how many images frozen models were shown meanwhile.

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
    if training.runtime.compile:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    with torch.no_grad(), training.runtime.autocast():
        given = stage.given(batch)
    for update, optimizer in zip(stage.updates, training.optimizers, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * (factor if update.scheduled else 1.0)
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


class Clock:
    """Counts what training costs, in seconds and in images shown to frozen models.

    Saves when enough seconds are at stake, or a signal came.
    """

    def __init__(self, training: Training, journal: Journal) -> None:
        self.training, self.journal = training, journal
        self.started = self.saved = time.monotonic()
        self.asked = training.stage.asked()

    def stop(self) -> None:
        """Adds what has been spent since the last call to the training's costs."""
        now, asked = time.monotonic(), self.training.stage.asked()
        self.training.seconds += now - self.started
        self.training.asked += asked - self.asked
        self.started, self.asked = now, asked

    def tick(self) -> None:
        """Hears that a step is done."""
        training, runtime = self.training, self.training.runtime
        self.journal.tick(training.progress(), training.epoch)
        if runtime.interrupt.signum is not None:
            self.save()
            runtime.interrupt.check(f"stage {training.stage.name}, epoch {training.epoch}")
        if time.monotonic() - self.saved >= runtime.save_seconds:
            self.save()

    def save(self) -> None:
        """Saves the training as it stands; a state that is not finite is never written."""
        self.stop()
        means(self.training)
        self.journal.save(self.training.state())
        self.saved = time.monotonic()
