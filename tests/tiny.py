"""Experiments small enough to test with: synthetic 12 x 12 images, tiny nets, everything in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.config.compose import Composer
from kdrun.core.experiment import Experiment
from kdrun.data.splits import Data
from kdrun.errors import Interrupted
from kdrun.run.assembly import Assembly, assemble, teach
from kdrun.train.runtime import Interrupt, Runtime
from kdrun.train.stage import Batch, Scores, Stage, State

torch.set_num_threads(1)

COMPOSER = Composer()
BASE = (
    "dataset=synthetic",
    "dataset.train_count=90",
    "dataset.test_count=30",
    "teacher=mlp_16",
    "student=mlp_16",
    "epochs=1",
    "teacher.recipe.epochs=1",
    "batch_size=32",
    "teacher.recipe.batch_size=32",
    "device=cpu",
)


def config(out: Path, *overrides: str) -> dict[str, Any]:
    """The whole config of a tiny run; later overrides win."""
    keys = {override.partition("=")[0] for override in overrides}
    base = [override for override in BASE if override.partition("=")[0] not in keys]
    words = [*base, f"out={out}", *overrides]
    if "teacher=none" in words:
        words = [word for word in words if not word.startswith("teacher.")]
    return COMPOSER.compose(words)


def setting(config: dict[str, Any], key: str) -> Any:
    """What a composed config has under a dotted key."""
    return reduce(lambda node, part: node[part], key.split("."), config)


def experiment(out: Path, *overrides: str) -> Experiment:
    """The experiment of a tiny run, its teacher trained where the method needs one."""
    pieces = assembled(config(out, *overrides))
    return teach(pieces.on(Data.read(pieces.exp.data.source)), pieces.teacher)


def assembled(config: dict[str, Any], notice: Callable[[str], None] = lambda line: None) -> Assembly:
    """The pieces of a run, on noise."""
    return assemble(config, Runtime.of(config, Interrupt()), lambda *row: None, notice)


class Memory:
    """A journal, and a record of such journals, that keep everything in this process."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state
        self.saves: list[State] = []
        self.rows: list[dict[str, Any]] = []
        self.stages: list[Stage] = []
        self.stop: tuple[Runtime, int] | None = None
        self.ticks = 0

    def load(self) -> State | None:
        return self.state

    def save(self, state: State) -> None:
        self.state = deepcopy(state)
        self.saves.append(self.state)

    def row(self, values: dict[str, Any]) -> None:
        self.rows.append(values)

    def tick(self, done: float, epoch: int) -> None:
        self.ticks += 1
        if self.stop and self.ticks == self.stop[1]:
            self.stop[0].interrupt.signum = 15

    def journal(self, number: int, stage: Stage, after: str) -> Memory:
        self.state = None
        self.stages.append(stage)
        return self

    def finished(self) -> tuple[Scores, str] | None:
        return None

    def finish(self, scores: Scores) -> str:
        return ""


class Batches:
    """A stream of given batches, the same in every epoch."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        for images, targets in self.pairs[start:]:
            places = torch.arange(len(images))
            yield Batch(images, targets, places, torch.zeros_like(places), number)


def copied(model: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers, as they are now."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two state_dicts are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


__all__ = ["Batches", "Interrupted", "Memory", "assembled", "config", "copied", "experiment", "same", "setting"]
