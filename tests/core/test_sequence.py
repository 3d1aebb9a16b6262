from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import Memory, copied, experiment, same
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.methods.base import Batch, Outputs, Scores, Stage, Stages, Step, Teacherless, Terms, Update
from kdrun.store.checkpoint import journals
from kdrun.store.record import Record, read_rows
from kdrun.train.loop import fit

DROPOUT = ("method=scratch", "teacher=none", "student.dropout=0.5")


class Late(Teacherless):
    """A warm-up that draws random numbers, and then a part of which nothing is known before."""

    reads = frozenset({"logits", "features"})
    warm: bool = True
    late: bool = True

    def stages(self, exp: Experiment) -> Stages:
        if self.warm:
            first = nn.Linear(10, 1)

            def loss(step: Step) -> Terms:
                return {"warm": first(torch.randn(len(step.batch.images), 10)).square().mean()}

            yield exp.stage("warm", [Update(first.parameters(), loss, player="first")], {"first": first})
        if self.late:
            self.part = nn.Linear(16, 10)
        yield self.distill(exp)

    def loss(self, student: Outputs, batch: Batch) -> Terms:
        more = self.part(student.features[0]) if self.late else 0
        return {"ce": F.cross_entropy(student.logits + more, batch.targets)}


def tapped(out: Path, *words: str) -> Experiment:
    exp = replace(experiment(out, *DROPOUT, *words), reads=Late.reads)
    return replace(exp, student=exp.initialised(exp.student_node, exp.plan.seed))


def trained(out: Path, folder: Path, *words: str) -> dict[str, Tensor]:
    exp, method, record = tapped(out, *words), Late(), Record(folder, "late", lambda *row: None)
    exp.follow(method, journals(record, {}))
    record.close()
    return {**copied(exp.student), **copied(method)}


def test_draws_between_stages_are_the_same_after_a_loaded_stage(tmp_path: Path) -> None:
    whole = trained(tmp_path, tmp_path / "run")
    for path in (tmp_path / "run" / "stages").glob("02-*"):
        path.unlink()
    assert same(trained(tmp_path, tmp_path / "run"), whole)


def test_a_stage_gives_the_same_bits_wherever_it_stands(tmp_path: Path) -> None:
    first, second = (tapped(tmp_path) for _ in range(2))
    first.follow(Late(warm=False, late=False), Memory().journal)
    second.follow(Late(warm=True, late=False), Memory().journal)
    assert same(copied(first.student), copied(second.student))


def test_costs_are_those_of_all_stages_and_of_each(tmp_path: Path) -> None:
    scores = tapped(tmp_path).follow(Late(), Memory().journal).scores
    assert scores["train_seconds"] == scores["train_seconds/warm"] + scores["train_seconds/distill"]
    assert scores["train_cpu_seconds"] > 0
    assert scores["teacher_images"] == 0
    assert 0 <= scores["top1"] <= 1


def test_a_training_that_is_finished_trains_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def watched(stage: Stage, *rest: Any) -> Scores:
        begun.append(stage.name)
        return fit(stage, *rest)

    monkeypatch.setattr("kdrun.core.sequence.fit", watched)
    whole = trained(tmp_path, tmp_path / "run")
    assert begun == ["warm", "distill"]
    assert same(trained(tmp_path, tmp_path / "run"), whole)
    assert begun == ["warm", "distill"]


def test_a_stage_that_goes_on_makes_the_stages_behind_it_anew(tmp_path: Path) -> None:
    trained(tmp_path, tmp_path / "run", "epochs=1")
    longer = trained(tmp_path, tmp_path / "run", "epochs=2")
    assert same(longer, trained(tmp_path, tmp_path / "other", "epochs=2"))
    rows = [(row["stage"], row["epoch"]) for row in read_rows(tmp_path / "run" / "metrics.jsonl")]
    assert rows == [("warm", 1), ("warm", 2), ("distill", 1), ("distill", 2)]
