"""What holds for every method that has a file in conf/method."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import COMPOSER, Memory, config, copied, experiment, same
from torch import Tensor, nn

from kdrun.config.build import target
from kdrun.config.places import CONF
from kdrun.errors import Interrupted
from kdrun.methods.base import Method
from kdrun.store.checkpoint import journals
from kdrun.store.record import Record
from kdrun.train import loop as trainer
from kdrun.train.stage import Batch, Outputs

METHODS = COMPOSER.options.names("method")

DATA = {
    "classification": ("dataset=synthetic", "dataset.train_count=40"),
    "translation": ("dataset=synthetic_pairs", "dataset.train_count=40", "dataset.size=64"),
}
NETS = ("teacher=resnet8", "student=resnet8")
"""With BatchNorm, which shows who counts a batch that he should not."""

SHORT = ("batch_size=8", "teacher.recipe.batch_size=8", "fast_dev_run=true")


@dataclass
class Training:
    """Two batches of eight of every stage, and what they did."""

    student: dict[str, Tensor]
    rows: list[dict[str, Any]]
    teacher: tuple[dict[str, Tensor], dict[str, Tensor]]
    idle: list[str]
    """Parameters that no stage has sent a gradient."""


def overrides(name: str) -> list[str]:
    """What makes a tiny run of the method, with the student and the teacher that its header's command names."""
    header = (CONF / "method" / f"{name}.yaml").read_text()
    made = target(COMPOSER.compose([f"method={name}"])["method"], "method")
    nets = re.findall(r"(?:student|teacher)=\w+", header) if "student=" in header else NETS
    if made.task == "classification" and nets is not NETS:
        nets.append("dataset.pad_to=32")  # some nets take no smaller images
    return [f"method={name}", *nets, *DATA[made.task], *SHORT]


def train(name: str, out: Path) -> Training:
    exp, memory = experiment(out, *overrides(name)), Memory()
    before = copied(exp.teacher.model) if exp.teacher else {}
    pushed: set[int] = set()
    descend = trainer.descend

    def watched(update: Any, optimizer: Any, terms: Any) -> None:
        descend(update, optimizer, terms)
        for group in optimizer.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            pushed.update(id(parameter) for parameter in moved if parameter.grad.any())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "descend", watched)
        exp.follow(exp.method(config(out, *overrides(name))["method"]), memory.journal)
    named = {key: parameter for stage in memory.stages for key, parameter in stage.modules.named_parameters()}
    idle = [key for key, parameter in named.items() if parameter.requires_grad and id(parameter) not in pushed]
    after = copied(exp.teacher.model) if exp.teacher else {}
    return Training(copied(exp.student), memory.rows, (before, after), idle)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that the teacher is trained once."""
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, out: Path) -> tuple[str, Training]:
    return request.param, train(request.param, out)


def test_every_term_and_score_is_finite(trained: tuple[str, Training]) -> None:
    rows = trained[1].rows
    assert rows
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())


def test_the_teachers_weights_and_buffers_stay_as_they_are(trained: tuple[str, Training]) -> None:
    assert same(*trained[1].teacher)


def test_every_trainable_parameter_gets_a_gradient_in_some_stage(trained: tuple[str, Training]) -> None:
    assert trained[1].idle == []


def test_the_same_seed_gives_the_same_numbers(trained: tuple[str, Training], out: Path) -> None:
    name, first = trained
    torch.manual_seed(12345)
    again = train(name, out)
    assert [{**row, "seconds": 0} for row in again.rows] == [{**row, "seconds": 0} for row in first.rows]
    assert same(again.student, first.student)


def test_stopped_again_and_again_it_ends_in_the_same_bits(
    trained: tuple[str, Training], out: Path, tmp_path: Path
) -> None:
    name, whole = trained
    for patience in range(1, 20):  # the first attempt is stopped after one step, the second after two more, ...
        exp = experiment(out, *overrides(name))
        left = [patience]

        def hear(training: str, stage: str, done: float, row: dict[str, Any], exp: Any = exp, left: Any = left) -> None:
            left[0] -= not row
            if left[0] == 0:
                exp.runtime.interrupt.signum = 15

        record = Record(tmp_path / "run", name, hear)
        try:
            exp.follow(exp.method(config(out, *overrides(name))["method"]), journals(record))
        except Interrupted:
            continue
        finally:
            record.close()
        assert same(copied(exp.student), whole.student)
        return
    raise AssertionError("never came to its end")


def test_a_method_without_a_loss_says_so() -> None:
    class Empty(Method):
        pass

    with pytest.raises(TypeError, match=r"^Empty defines neither loss nor stages$"):
        Empty().loss(Outputs(torch.zeros(1), []), None, Batch(*[torch.zeros(1)] * 4, 1))


def test_a_method_with_only_a_loss_trains_its_own_parameters_too(tmp_path: Path) -> None:
    class Scaled(Method):
        needs_teacher = False

        def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
            assert (student, teacher) == ([torch.Size((1, 16))], [])
            self.scale = nn.Parameter(torch.ones(()))

        def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
            assert teacher is None
            return {"ce": nn.functional.cross_entropy(self.scale * student.logits, batch.targets)}

    method, exp = Scaled(), experiment(tmp_path, "method=scratch")
    exp.follow(method, Memory().journal)
    assert float(method.scale.detach()) != 1
