from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from tiny import Memory, copied, experiment, same
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.methods.base import Batch, Method, Outputs, Stages, Terms, Update
from kdrun.store.checkpoint import journals
from kdrun.store.record import Record

DROPOUT = ("method=scratch", "teacher=none", "student.dropout=0.5")


class Late(Method):
    """A warm-up that draws random numbers, and then a part of which nothing is known before."""

    needs_teacher = False

    def __init__(self, warm: bool = True, late: bool = True) -> None:
        super().__init__()
        self.warm, self.late = warm, late

    def stages(self, exp: Experiment) -> Stages:
        if self.warm:
            first = nn.Linear(10, 1)

            def loss(batch: Batch, given: None) -> Terms:
                return {"warm": first(torch.randn(len(batch.images), 10)).square().mean()}

            update = Update(first.parameters(), loss)
            yield exp.stage("warm", [update], {"first": first}, evaluate=None, select=None)
        if self.late:
            self.part = nn.Linear(16, 10)
        yield self.distill(exp)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        more = self.part(student.features[0]) if self.late else 0
        return {"ce": F.cross_entropy(student.logits + more, batch.targets)}


def trained(out: Path, folder: Path) -> dict[str, Tensor]:
    exp, method, record = experiment(out, *DROPOUT), Late(), Record(folder, "late", lambda *heard: None)
    exp.follow(method, journals(record))
    record.close()
    return {**copied(exp.student), **copied(method)}


def test_draws_between_stages_are_the_same_after_a_loaded_stage(tmp_path: Path) -> None:
    whole = trained(tmp_path, tmp_path / "run")
    for path in (tmp_path / "run" / "stages").glob("02-*"):
        path.unlink()
    assert same(trained(tmp_path, tmp_path / "run"), whole)


def test_a_stage_gives_the_same_bits_wherever_it_stands(tmp_path: Path) -> None:
    first, second = (experiment(tmp_path, *DROPOUT) for _ in range(2))
    first.follow(Late(warm=False, late=False), Memory().journal)
    second.follow(Late(warm=True, late=False), Memory().journal)
    assert same(copied(first.student), copied(second.student))


def test_costs_are_those_of_all_stages_and_of_each(tmp_path: Path) -> None:
    scores = experiment(tmp_path, *DROPOUT).follow(Late(), Memory().journal)
    assert scores["seconds"] == scores["seconds/warm"] + scores["seconds/distill"]
    assert scores["asked"] == 0
    assert 0 <= scores["top1"] <= 1
