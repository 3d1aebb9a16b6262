from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tiny import COMPOSER, Memory, config, copied, experiment, same
from torch import Tensor, nn

from kdrun.config.build import Builder
from kdrun.core.models import reads
from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Method, Outputs, Stage, Terms
from kdrun.methods.sum import Sum
from kdrun.train.stage import Step


def trained(out: Path, *words: str) -> tuple[dict[str, Tensor], Memory, Any]:
    exp, memory = experiment(out, *words, "epochs=2"), Memory()
    method: Any = exp.method(config(out, *words)["method"])
    exp.follow(method, memory.journal)
    return copied(exp.student), memory, method


def node(*words: str) -> dict[str, Any]:
    composed: dict[str, Any] = COMPOSER.compose(["method=sum", *words])["method"]
    return composed


def test_one_part_of_weight_1_is_that_method_bit_for_bit(tmp_path: Path) -> None:
    plain, rows, _ = trained(tmp_path, "method=kd")
    summed, others, _ = trained(tmp_path, "method=sum", "method.parts=[kd]")
    assert same(plain, summed)
    pairs = zip(rows.rows, others.rows, strict=True)
    assert all(one["loss/kd"] == other["loss/kd_kd"] for one, other in pairs)


def test_each_term_of_a_part_is_multiplied_by_its_weight(tmp_path: Path) -> None:
    words = ("method=sum", "method.parts=[kd,logits,scratch]", "method.weights=[2,0.5,3]")
    exp = experiment(tmp_path, *words)
    stage = next(exp.method(config(tmp_path, *words)["method"]).stages(exp))
    step = Step(next(stage.stream.epoch(1)), stage)
    terms = stage.updates[0].loss(step)
    expected = {}
    for name, weight in (("kd", 2), ("logits", 0.5)):
        part: Any = exp.method(COMPOSER.compose([f"method={name}"])["method"])
        losses = part.loss(step(exp.student), step(exp.teacher), step.batch)
        expected |= {f"{name}_{term}": weight * value for term, value in losses.items()}
    expected["scratch_ce"] = 3 * nn.functional.cross_entropy(step(exp.student).logits, step.batch.targets)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


def test_two_parts_of_one_name_keep_their_terms_apart(tmp_path: Path) -> None:
    words = ["method=sum", "method.parts=[kd,{name:kd,temperature:2}]"]
    _, memory, _ = trained(tmp_path, *words)
    assert {"loss/kd_ce", "loss/kd_kd", "loss/kd_2_ce", "loss/kd_2_kd"} <= memory.rows[0].keys()


def test_a_part_can_change_arguments_of_its_method() -> None:
    parts = node("method.parts=[{name:kd,temperature:9,ce_weight:0},{name:logit_std,base:{temperature:3}},dkd]")[
        "parts"
    ]
    assert [part["name"] for part in parts] == ["kd", "logit_std", "dkd"]
    assert parts[0] == {**COMPOSER.compose(["method=kd"])["method"], "temperature": 9.0, "ce_weight": 0.0}
    assert isinstance(parts[0]["temperature"], float)
    assert parts[1]["base"] == {**COMPOSER.compose(["method=kd_t2"])["method"], "temperature": 3.0}
    assert parts[2] == COMPOSER.compose(["method=dkd"])["method"]


REFUSED = {
    "method.parts=[kd,dekk]": r"method\.parts\[1\]: no option 'dekk'",
    "method.parts=[{temperature:2}]": r"method\.parts\[0\]: no option null",
    "method.parts=[{name:kd,tempature:2}]": r"method\.parts\[0\]\.tempature: unknown key; did you mean 'temperature'\?",
    "method.parts=[3]": r"method\.parts\[0\]: no option 3",
}


@pytest.mark.parametrize("word", REFUSED)
def test_a_part_that_does_not_exist_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=REFUSED[word]):
        node(word)


UNFIT = {
    "method.parts=[]": r"method\.parts: there are none; name methods, as in method\.parts=\[kd,dist\]",
    "method.weights=[1]": r"method\.weights: 1 weights for 2 parts; give one for each",
    "method.parts=[kd,fitnets]": r"method\.parts\[1\]: fitnets has stages of its own, .*method\.base=sum",
    "method.parts=[takd]": r"method\.parts\[0\]: takd has stages of its own",
}


@pytest.mark.parametrize("word", UNFIT)
def test_parts_and_weights_that_do_not_fit_are_refused(word: str, tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=kd")
    with pytest.raises(ConfigError, match=UNFIT[word]):
        next(exp.method(node(word)).stages(exp))


class Counted(Method):
    """Has a memory that counts the steps, and a learned part of its own."""

    reads: ClassVar = frozenset({"logits", "features"})

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.scale = nn.Parameter(torch.ones(()))
        self.remembered = (nn.Module(),)
        self.remembered[0].register_buffer("steps", torch.zeros(()))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        return {"ce": nn.functional.cross_entropy(self.scale * student.logits, batch.targets)}

    def memory(self) -> nn.Module:
        return self.remembered[0]

    def after_step(self) -> None:
        self.remembered[0].steps += 1  # type: ignore[operator]


class Twofold(Counted):
    def distill(self, exp: Any, name: str = "distill", **changes: Any) -> Stage:
        stage = super().distill(exp, name, **changes)
        stage.updates.append(stage.updates[0])
        return stage


def test_weights_hooks_and_memories_of_parts_are_in_one_update(tmp_path: Path) -> None:
    exp, memory = experiment(tmp_path, "method=kd"), Memory()
    method = Sum([COMPOSER.compose(["method=kd"])["method"], {"_target_": f"{__name__}.Counted", "name": "counted"}])
    object.__setattr__(exp, "builder", Builder([__name__]))
    exp.follow(method, memory.journal)
    counted: Any = method.inner[1]
    assert counted.remembered[0].steps == memory.ticks > 0
    assert memory.saves[-1]["memory"]["1.steps"] == memory.ticks
    assert counted.scale != 1
    assert "method.inner.1.scale" in dict(memory.stages[0].modules.named_parameters())


def test_a_part_of_two_updates_is_refused(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=kd")
    object.__setattr__(exp, "builder", Builder([__name__]))
    method = Sum([{"_target_": f"{__name__}.Twofold", "name": "twofold"}])
    with pytest.raises(ConfigError, match=r"^method\.parts\[0\]: twofold is more than one loss"):
        next(method.stages(exp))


def test_what_a_part_reads_is_read_by_the_sum() -> None:
    assert reads(Builder(), node("method.parts=[kd,dist]")) == {"logits"}
    assert reads(Builder(), node("method.parts=[kd,cosine]")) == {"logits", "features"}


def test_a_method_with_a_bank_and_kd_are_the_row_of_papers(tmp_path: Path) -> None:
    words = ["method=sum", "method.parts=[{name:kd,ce_weight:0},{name:crd,negatives:8}]", "method.weights=[1,1]"]
    _, memory, method = trained(tmp_path, *words)
    assert {"loss/kd_kd", "loss/crd_ce", "loss/crd_crd"} <= memory.rows[0].keys()
    assert method.inner[1].memory().steps == memory.ticks


@pytest.mark.parametrize("outer", ["takd", "wskd"])
def test_chains_and_second_steps_take_a_sum_as_their_base(outer: str, tmp_path: Path) -> None:
    words = [f"method={outer}", "method.base=sum"] + (["method.assistants=[mlp_16]"] if outer == "takd" else [])
    _, memory, _ = trained(tmp_path, *words)
    assert "loss/kd_soft_kd" in memory.rows[-1]
