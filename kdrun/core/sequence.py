"""Goes through the stages of one training in order; each is trained or loaded."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import nn

from kdrun.errors import ConfigError
from kdrun.store.checkpoint import Journals
from kdrun.train.loop import COSTS, Recipe, fit
from kdrun.train.runtime import Runtime, derive
from kdrun.train.stage import Scores, Stage

Stages = Generator[Stage, Scores | None, None]
"""A generator of stages; the scores of each stage are sent into it once the stage is trained."""


class Outcome(NamedTuple):
    """The result of all stages of a training."""

    scores: Scores
    """The scores of the last stage. ``train_seconds`` and the other costs are sums over all stages,
    ``train_seconds/STAGE`` is the time of one."""
    deployed: nn.Module
    """The player that the last stage deploys: it is tested and exported, and its parameters are counted."""


def deployed_module(stage: Stage | None) -> nn.Module:
    """Returns the player that ``stage``, the last of a training, deploys.

    Raises:
        ConfigError: if it deploys none: there would be nothing to test.
    """
    if stage is None or stage.deployed is None or stage.deployed not in stage.players:
        what = f"its last stage, {stage.name}, deploys none of its players" if stage else "it has no stage"
        raise ConfigError("method", f"{what}; the last stage must deploy the model to test")
    return stage.players[stage.deployed]


def follow(stages: Stages, seed: int, recipe: Recipe, runtime: Runtime, journals: Journals) -> Outcome:
    """Trains ``stages`` in order; finished stages are loaded, and a stopped one is resumed.

    The global random generators are seeded again before each stage is made and before it is trained. So the later
    stages are the same whether a stage was trained or loaded.
    """
    scores: Scores | None = None
    stage: Stage | None = None
    costs, after, number = dict.fromkeys(COSTS, 0.0) | {"teacher_images": 0, "teacher_images_run": 0}, "", 0
    while True:
        torch.manual_seed(derive(seed, "between", number))
        try:
            stage = stages.send(scores)
        except StopIteration:
            return Outcome({**(scores or {}), **costs}, deployed_module(stage))
        number += 1
        torch.manual_seed(derive(seed, "stage", stage.name))
        journal = journals(number, stage, after)
        if finished := journal.finished():
            scores, after = finished
        else:
            scores = fit(stage, recipe, runtime, journal)
            after = journal.finish(scores)
        costs[f"train_seconds/{stage.name}"] = scores["train_seconds"]
        for cost in COSTS:
            costs[cost] += scores[cost]
