"""The stages of one training, one after the other, each trained or loaded."""

from __future__ import annotations

from collections.abc import Generator

import torch

from kdrun.store.checkpoint import Journals
from kdrun.train.loop import fit
from kdrun.train.runtime import Runtime, derive
from kdrun.train.stage import Scores, Stage
from kdrun.train.training import Recipe


def follow(
    stages: Generator[Stage, Scores | None, None], seed: int, recipe: Recipe, runtime: Runtime, journals: Journals
) -> Scores:
    """Trains ``stages`` in turn, or takes them up from their journals; returns the last one's scores.

    ``seconds`` and ``asked`` are those of all stages, ``seconds/STAGE`` those of one. The global generators are seeded
    anew before each advance and each stage, so that a stage which is loaded instead of trained leaves what follows as
    it was.
    """
    scores: Scores | None = None
    costs, after, number = {"seconds": 0.0, "asked": 0.0}, "", 0
    while True:
        torch.manual_seed(derive(seed, "between", number))
        try:
            stage = stages.send(scores)
        except StopIteration:
            return {**(scores or {}), **costs}
        number += 1
        torch.manual_seed(derive(seed, "stage", stage.name))
        journal = journals(number, stage, after)
        if finished := journal.finished():
            scores, after = finished
        else:
            scores = fit(stage, recipe, runtime, journal)
            after = journal.finish(scores)
        costs[f"seconds/{stage.name}"] = scores["seconds"]
        for cost in ("seconds", "asked"):
            costs[cost] += scores[cost]
