"""The parts of a training: a batch, the outputs of models on it, an update of a player, a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Terms = dict[str, Tensor]
"""Named losses, already weighted; their sum is what is minimized."""

Scores = dict[str, float]
"""Named scores of a model on a split, such as top1 in [0, 1]."""

State = dict[str, Any]
"""Tensors and plain values from which the training of a stage can resume."""

STUDENT = "student"
"""The player whose terms are logged under their own names; terms of other players are logged as ``PLAYER/TERM``."""


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over the training images: which images come in which order, each in which view."""

    index: Tensor  # (N,) int64 on the CPU, places in the training images as read
    view: Tensor  # (N,) int64 on the CPU, the number of the view, of the finitely many that the augmentation has
    images: Callable[[Tensor], Tensor]  # makes the images (M, C, H, W) of some rows (M,) of the pass, on the device


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of one training step."""

    images: Tensor  # (N, C, H, W) float32, augmented and normalized
    targets: Tensor  # (N,) int64 class ids, or (N, ...) float32 images that the inputs are paired with
    index: Tensor  # (N,) int64 places in the training images as read, before any split: for memory banks
    view: Tensor  # (N,) int64 number of the sample's view, of the finitely many that the augmentation has
    epoch: int  # number of the pass over the data, from 1: for loss weights that change over time
    source: Pass | None = None  # the pass that it is part of; None if its images are not those of the data set
    begin: int = 0  # the row of its first image in that pass


class Outputs(NamedTuple):
    """The outputs of a tapped model for a batch."""

    logits: Tensor  # (N, classes); in image translation the translated images, (N, C, H, W)
    features: list[Tensor]  # one per tap, in the order of the model's taps


class Model(Protocol):
    """A model that a step can run: a tapped model, or a trained one."""

    def __call__(self, images: Tensor, /) -> Outputs:
        """Returns the outputs for ``images`` (N, C, H, W)."""

    def until(self, images: Tensor, tap: int) -> Tensor:
        """Returns the output of one tap; the layers after it are not run."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yields all weights."""


class Batches(Protocol):
    """The source of a stage's batches; the same seed gives the same batches."""

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of epoch ``number`` (from 1), starting with batch ``start`` (from 0)."""


@dataclass(eq=False)
class Update:
    """One optimizer that minimizes one loss of one player."""

    params: Iterable[nn.Parameter]
    """The parameters that it trains; ignored if ``optimizer`` is an earlier update, whose parameters are used."""
    loss: Callable[[Step], Terms]
    """Computes the loss terms. If it returns none, there is no backward pass and no step."""
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | Update | None = None
    """Makes the optimizer. An earlier update means that its optimizer is shared; None means that of the recipe."""
    repeat: int = 1
    """Steps per batch."""
    after_step: Callable[[], None] | None = None
    """Called after each step, for weight clipping or moving averages; the only hook. If it changes weights that are not
    among ``params``, the outputs already computed for this batch are not updated."""
    scheduled: bool = True
    """Whether the recipe's schedule changes the learning rate, also if the update has its own optimizer."""
    player: str = STUDENT
    """The player that the loss belongs to; its terms are logged under this name."""

    def __post_init__(self) -> None:
        shared = self.optimizer if isinstance(self.optimizer, Update) else self
        self.params = list(shared.params)  # a list, because ``parameters()`` can be iterated only once


def run(model: Model, batch: Batch) -> Outputs:
    """Returns the outputs of ``model`` for the images of ``batch``."""
    return model(batch.images)


def zero() -> int:
    """Returns 0: the number of teacher images of a stage without frozen models."""
    return 0


@dataclass(eq=False)
class Stage:
    """One phase of training: which players are trained, by which losses, on which batches."""

    name: str
    players: Mapping[str, nn.Module]
    """The modules that are trained in this stage, by name. They are set to train mode, saved and resumed."""
    updates: list[Update]
    """The updates in order: each computes its loss after the step of the previous one."""
    stream: Batches
    epochs: int
    deployed: str | None = None
    """The player that is scored, tested and exported, and whose parameters are counted; None if there is none."""
    teacher: Model | None = None
    """The frozen model that the student learns from here."""
    evaluate: Callable[[], Scores] | None = None
    """Returns the scores on the validation split; called after each epoch."""
    select: str | None = None
    """The score that selects the best epoch, with ``-`` in front if less is better; None keeps the last epoch."""
    teacher_images: Callable[[], int] = zero
    """Returns how many images the outputs of frozen models were asked for so far: a cost of the stage."""
    teacher_images_run: Callable[[], int] = zero
    """Returns how many images frozen models were run on so far; a teacher table has answered for the others."""
    recall: Callable[[Model, Batch], Outputs] = run
    """Returns the outputs of a frozen model for a batch: the model may have been run on these images before."""
    until: Callable[[Scores], bool] = field(default=lambda scores: False)
    """Called with the scores after each epoch; returns whether the stage ends early."""

    def __post_init__(self) -> None:
        self.modules = nn.ModuleDict(self.players)
        self._movers: dict[Model, list[Update]] = {}
        self._owners: dict[str, Update] = {}

    def add(self, player: str, module: nn.Module) -> None:
        """Adds a player to the stage."""
        self.players = {**self.players, player: module}
        self.modules[player] = module

    def train_mode(self) -> None:
        """Puts the players into train mode, but for what is frozen in them: a teacher's BatchNorm must not learn."""
        self.modules.train()
        for module in self.modules.modules():
            weights = list(module.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                module.eval()

    def movers(self, model: Model) -> list[Update]:
        """Returns the updates that change a parameter of ``model``; computed once per model."""
        if model not in self._movers:
            own = set(map(id, model.parameters()))
            self._movers[model] = [update for update in self.updates if own & set(map(id, update.params))]
        return self._movers[model]

    def named(self, update: Update, terms: Terms) -> Terms:
        """Returns the ``terms`` of an update, named as they are logged.

        Raises:
            ValueError: if the stage has no such player, if the name of a term has a slash, or if another update has a
                term of the same name: the log would mix the two.
        """
        if update.player not in self.players:
            raise ValueError(f"stage {self.name} has no player {update.player!r} (has: {', '.join(self.players)})")
        own = {term if update.player == STUDENT else f"{update.player}/{term}": value for term, value in terms.items()}
        for term, name in zip(terms, own, strict=True):
            if "/" in term:
                raise ValueError(f"term {term!r} has a slash; that separates a player's name from a term's")
            if self._owners.setdefault(name, update) is not update:
                raise ValueError(f"two updates of stage {self.name} have a term {name!r}; rename one of them")
        return own


class Step:
    """A batch, and the outputs of models on it, which the updates share.

    A model runs when its outputs are first needed, and again only after an update has changed its weights. All updates
    in between share one forward pass. A model that no update of the stage changes runs without gradients.

    Args:
        batch: the batch of the step.
        stage: the stage whose updates use the outputs.
    """

    def __init__(self, batch: Batch, stage: Stage) -> None:
        self.batch, self.stage = batch, stage
        self._current: dict[tuple[Model, int | None], Any] = {}
        self._latest: dict[Model, Outputs] = {}

    def __call__(self, model: Model) -> Outputs:
        """Returns the outputs of ``model`` for the batch's images, with its current weights."""
        outputs: Outputs = self._once(model, None, lambda: self._run(model))
        self._latest[model] = outputs
        return outputs

    def until(self, model: Model, tap: int) -> Tensor:
        """Returns the output of a tap of ``model``, with its current weights; the layers after the tap are not run."""
        feature: Tensor = self._once(model, tap, lambda: model.until(self.batch.images, tap))
        return feature

    def latest(self, model: Model) -> Outputs:
        """Returns the last outputs of ``model``, without gradients; runs it only if it has not seen this batch."""
        if model not in self._latest:
            self(model)
        logits, features = self._latest[model]
        return Outputs(logits.detach(), [feature.detach() for feature in features])

    def moved(self, update: Update) -> None:
        """Forgets the outputs of all models whose weights ``update`` has changed."""
        for key in [key for key in self._current if update in self.stage.movers(key[0])]:
            del self._current[key]

    def _run(self, model: Model) -> Outputs:
        is_frozen = not self.stage.movers(model)
        return self.stage.recall(model, self.batch) if is_frozen else model(self.batch.images)

    def _once(self, model: Model, tap: int | None, run: Callable[[], Any]) -> Any:
        if (model, tap) not in self._current:
            # the caller's grad mode does not count: a later caller may need gradients of the same outputs
            with torch.set_grad_enabled(bool(self.stage.movers(model))):
                self._current[model, tap] = run()
        return self._current[model, tap]
