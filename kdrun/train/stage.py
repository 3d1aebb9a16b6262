"""The nouns of training: a batch, what a model says of it, an update, a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

Terms = dict[str, Tensor]
"""Named losses, already weighted; their sum is what is minimized. A name with a slash, ``judge/real``, is of another
player than the student, whose training loss it is no part of."""

Scores = dict[str, float]
"""Named measures of a model on a split, such as top1 in [0, 1]."""

State = dict[str, Any]
"""Tensors and plain values from which a stage's training can go on."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step of training sees."""

    images: Tensor  # (N, C, H, W) float32, augmented and normalized
    targets: Tensor  # (N,) int64 class ids, or (N, ...) float32 what the images are paired with
    index: Tensor  # (N,) int64 places in the split: for memories and tables of the teacher's logits
    view: Tensor  # (N,) int64 which of the augmentation's finitely many views of the sample this is
    epoch: int  # the pass over the data, from 1: for weights that change with time


class Outputs(NamedTuple):
    """What a tapped model says of a batch."""

    logits: Tensor  # (N, classes); for image translation the image, (N, C, H, W)
    features: list[Tensor]  # one per tap, in the order of the model's taps


class Stream(Protocol):
    """Where a stage's batches come from; the same seed gives the same batches."""

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of epoch ``number`` (from 1), beginning with batch ``start`` (from 0)."""


@dataclass
class Update:
    """One optimizer going down one loss: a student's, a regressor's, a judge's."""

    params: Iterable[nn.Parameter]
    loss: Callable[[Batch, Any], Terms]
    """Of a batch and of what the stage was given for it; no terms: no backward and no step."""
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | Update | None = None
    """Makes the optimizer; the recipe's where None; that of an earlier update where it is one."""
    repeat: int = 1
    """Steps per batch."""
    after_step: Callable[[], None] | None = None
    """Weight clipping, moving averages; the only hook."""
    scheduled: bool = True
    """Whether the recipe's schedule moves the rate, whoever's the optimizer is."""

    def __post_init__(self) -> None:
        self.params = list(self.params)  # ``parameters()`` can be gone through only once


def nothing(batch: Batch) -> None:
    """What a stage without frozen models is given."""


def nobody() -> int:
    """How many images a stage without frozen models has shown to them."""
    return 0


@dataclass
class Stage:
    """One phase of training, whole: what moves, down which losses, over which batches."""

    name: str
    updates: list[Update]
    """In order: each computes its loss after the step of the one before."""
    modules: nn.ModuleDict
    """All that is trained here: put in train mode, saved, resumed."""
    stream: Stream
    epochs: int
    given: Callable[[Batch], Any] = nothing
    """What frozen models say of a batch; called once per batch, under ``no_grad``."""
    evaluate: Callable[[], Scores] | None = None
    """Scores the stage after each epoch, on the validation split."""
    select: str | None = None
    """The score whose best epoch is kept, ``-`` before it where less is better; the last epoch where None."""
    asked: Callable[[], int] = nobody
    """How many images frozen models have been shown so far, whoever showed them: a cost of the stage."""
    until: Callable[[Scores], bool] = field(default=lambda scores: False)
    """Ends the stage early, asked after each epoch."""
