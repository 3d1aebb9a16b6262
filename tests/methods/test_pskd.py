from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from logit_cases import LABELS, TABLE, check
from tiny import Memory, config, copied, experiment
from torch import Tensor

from kdrun.methods.pskd import PSKD
from kdrun.train.stage import Step

CASE = TABLE["cases"]["pskd"]["default"]
PAST = torch.tensor(CASE["inputs"]["past"], dtype=torch.float64)


def test_the_loss_and_its_gradient_are_the_published_ones() -> None:
    method = PSKD()
    method.epochs = 10

    def loss(student: Tensor) -> Tensor:
        return -(method.targets(LABELS, PAST, 5) * student.log_softmax(1)).sum(1).mean()

    assert CASE["arguments"]["alpha_t"] == 0.8 * 5 / 10
    check(loss, CASE)


def test_the_past_counts_more_each_epoch_and_not_in_the_first() -> None:
    method = PSKD(past_weight=0.6)
    method.epochs = 3
    certain = torch.zeros(5, 7, dtype=torch.float64)
    shares = [float(1 - method.targets(LABELS, certain, epoch)[0, 0]) for epoch in (1, 2, 3)]
    assert shares == pytest.approx([0.0, 0.4, 0.6])


def staged(out: Path, *words: str) -> tuple[Any, Any, Any]:
    exp = experiment(out, "method=pskd", "teacher=none", *words)
    method: Any = exp.method(config(out, "method=pskd", "teacher=none", *words)["method"])
    return exp, method, next(method.stages(exp))


def test_each_image_learns_from_what_was_said_of_it_before(tmp_path: Path) -> None:
    exp, method, stage = staged(tmp_path, "epochs=4")
    predictions = {}
    for batch in stage.stream.epoch(1):
        step = Step(batch, stage)
        stage.updates[0].loss(step)
        method.after_step()
        probabilities = step(exp.student).logits.detach().softmax(1)
        predictions |= dict(zip(batch.index.tolist(), probabilities, strict=True))
    batch = next(stage.stream.epoch(2))
    step = Step(batch, stage)
    term = stage.updates[0].loss(step)["ce"]
    past = torch.stack([predictions[index] for index in batch.index.tolist()])
    labels = torch.eye(10)[batch.targets]
    expected = -((0.4 * past + 0.6 * labels) * step(exp.student).logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(term, expected)


def test_without_the_past_it_is_the_baseline(tmp_path: Path) -> None:
    students = []
    for words in (("method=pskd", "method.past_weight=0"), ("method=scratch",)):
        exp, memory = experiment(tmp_path, *words, "teacher=none", "epochs=2"), Memory()
        exp.follow(exp.method(config(tmp_path, *words, "teacher=none")["method"]), memory.journal)
        students.append(copied(exp.student))
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*map(dict.values, students), strict=True))
