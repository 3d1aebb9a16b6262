"""A stage under way: its state, the means of its losses, its best epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdrun.errors import TrainingError
from kdrun.train.runtime import Runtime, generators, set_generators
from kdrun.train.stage import Scores, Stage, State, Terms, Update


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
    asked: int = 0
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
        names = ("epoch", "step", "totals", "counts", "seconds", "asked", "scores", "best")
        return {
            **{name: getattr(self, name) for name in names},
            "modules": self.stage.modules.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generators": generators(),
            "environment": self.runtime.environment(),
        }

    def restore(self, state: State) -> None:
        """Takes up the stage where ``state`` left it."""
        for name in ("epoch", "step", "counts", "seconds", "asked", "scores", "best"):
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
    return {**best["scores"], "epoch": best["epoch"], "seconds": training.seconds, "asked": training.asked}
