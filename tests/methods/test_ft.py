"""Factor transfer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from oracle import case, check_finite
from tiny import Memory, config, copied, experiment, same
from torch import Tensor

from kdrun.errors import ConfigError
from kdrun.methods.ft import FT, Paraphraser, distance, encoder
from kdrun.train.stage import Stage


def test_value_and_gradient_are_those_of_the_paper() -> None:
    example = case("ft", 0)
    example.check(distance(example.inputs["student"], example.inputs["teacher"]))


def test_the_paraphraser_is_that_of_the_paper() -> None:
    example = case("ft", "paraphraser, stage 1")
    maps, paraphraser = example.inputs["teacher"], Paraphraser(4, 2).double()
    weights = {}
    for name, value in example.weights.items():
        part, number, kind = name.split(".")
        weights[f"{part}.{int(number) * 2 // 3}.{kind}"] = value
    paraphraser.load_state_dict(weights)
    example.close(F.mse_loss(paraphraser(maps), maps), example.expected["loss"])
    example.close(paraphraser.encoder(maps).mean(), example.expected["factor_mean"])


def test_the_translator_is_that_of_the_paper() -> None:
    example = case("ft", "translator")
    translator = encoder(3, 2, normalized=True).double()
    weights = {name.removeprefix("encoder."): value for name, value in example.weights.items()}
    translator.load_state_dict({**translator.state_dict(), **weights})
    example.close(translator(example.inputs["student"]), example.expected["factor"])


def test_the_benchmark_compares_attention_maps() -> None:
    student, teacher = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    maps = [each.square().mean(1).flatten(1) for each in (student, teacher)]
    first, second = (each / each.norm(dim=1, keepdim=True) for each in maps)
    torch.testing.assert_close(distance(student, teacher, "attention"), (first - second).abs().mean())


def test_the_paraphraser_is_frozen_once_it_is_trained(tmp_path: Path) -> None:
    words = ("method=ft", "student=resnet8", "teacher=resnet14", "fast_dev_run=true")
    exp, memory = experiment(tmp_path, *words), Memory()
    method, before = exp.method(config(tmp_path, *words)["method"]), []

    def journal(number: int, stage: Stage, after: str) -> Memory:
        before.append(copied(method.paraphraser))
        return memory.journal(number, stage, after)

    exp.follow(method, journal)
    first, second = memory.stages
    assert (first.name, second.name) == ("paraphraser", "distill")
    assert not same(*before)
    assert same(before[1], copied(method.paraphraser))
    own = set(map(id, method.paraphraser.parameters()))
    assert not own & {id(weight) for weight in second.updates[0].params}
    assert [key for key in memory.rows[0] if key.startswith("loss/")] == ["loss/paraphraser/error"]


def test_a_rate_that_leaves_no_channel_is_refused() -> None:
    shape = torch.Size((1, 4, 2, 2))
    with pytest.raises(ConfigError, match=r"^method.rate: 0.1 of 4 channels are none; take more$"):
        FT(rate=0.1).connect([shape], [shape])


@pytest.mark.parametrize("form", ["factors", "attention"])
def test_extreme_factors_have_finite_values_and_gradients(form: str) -> None:
    check_finite(lambda student, teacher: distance(student, teacher, form), 4, 3, 2, 2)
    torch.manual_seed(0)
    translator = encoder(3, 3, normalized=True)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return distance(translator(student), teacher, form)

    check_finite(loss, 4, 3, 2, 2)
