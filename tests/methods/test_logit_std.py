from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from logit_cases import STUDENT, TABLE, TEACHER, batch, check, soft_of, summed
from tiny import COMPOSER, Memory, config, copied, experiment, same

from kdrun.config.build import Builder
from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.base import Outputs
from kdrun.methods.kd import KD
from kdrun.methods.logit_std import LogitStd, standardized

BUILDER = cast(Experiment, SimpleNamespace(method=lambda node: Builder().build(node, where="method")))


def around(base: str, weight: float = 1.0, **changes: Any) -> LogitStd:
    method = LogitStd({**COMPOSER.compose([f"method={base}"])["method"], **changes}, weight)
    method.setup(BUILDER)
    return method


def test_around_kd_it_is_the_published_loss() -> None:
    case = TABLE["cases"]["logit_std"]["kd"]
    check(soft_of(around("kd", kd_weight=1.0, temperature=float(case["arguments"]["T"]))), case)


def test_around_dkd_the_weight_is_of_both_its_terms() -> None:
    case = TABLE["cases"]["logit_std"]["dkd"]
    assert (case["arguments"]["alpha"], case["arguments"]["beta"]) == (9, 9 * 8)
    check(soft_of(around("dkd", 9.0, temperature=float(case["arguments"]["T"]))), case)


def test_the_presets_have_the_published_weights() -> None:
    for name, scale in (("kd", 9.0), ("dkd", 1.0)):
        node = COMPOSER.compose([f"method=logit_std{'' if name == 'kd' else '_dkd'}"])["method"]
        method = cast(Any, BUILDER).method(node)
        method.setup(BUILDER)
        value = float(summed(method.soft(STUDENT, TEACHER, batch())))
        assert value == pytest.approx(scale * TABLE["cases"]["logit_std"][name]["loss"])


def test_the_cross_entropy_keeps_the_raw_logits() -> None:
    method = around("kd")
    terms = method.loss(Outputs(STUDENT, []), Outputs(TEACHER, []), batch())
    plain = KD().loss(Outputs(STUDENT, []), Outputs(TEACHER, []), batch())
    assert torch.equal(terms["ce"], plain["ce"])
    assert not torch.isclose(terms["kd"], plain["kd"])


def test_neither_size_nor_mean_of_the_logits_matters() -> None:
    one, other = standardized(STUDENT), standardized(STUDENT * torch.arange(1.0, 6.0)[:, None].double() - 3)
    torch.testing.assert_close(one, other)
    assert one.std(1).tolist() == pytest.approx([1.0] * 5, rel=1e-6)


def test_a_wrapper_can_be_around_a_wrapper() -> None:
    node = COMPOSER.compose(["method=logit_std", "method.base=logit_std_dkd"])["method"]
    method = LogitStd(node["base"], weight=2.0)
    method.setup(BUILDER)
    inner = around("dkd", 9.0, temperature=2.0)
    expected = 2 * summed(inner.soft(STUDENT, TEACHER, batch()))  # what is standardized stays as it is
    torch.testing.assert_close(summed(method.soft(STUDENT, TEACHER, batch())), expected)


@pytest.mark.parametrize("base", ["fitnets", "cosine", "scratch", "takd"])
def test_a_base_without_a_soft_part_is_refused_by_name(base: str, tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=kd")
    method = exp.method(config(tmp_path, "method=logit_std", f"method.base={base}")["method"])
    with pytest.raises(ConfigError, match=rf"^method\.base: {base} has no soft part .*; choose a method of logits"):
        next(method.stages(exp))


@pytest.mark.parametrize("outer", ["takd", "gskd", "wskd"])
def test_chains_and_second_steps_take_it_as_their_base(outer: str, tmp_path: Path) -> None:
    words = ["teacher=mlp_32", "student=mlp_32", f"method={outer}"]
    words += {"takd": ["method.assistants=[mlp_16]"], "gskd": ["method.students=[mlp_16]"]}.get(outer, [])
    students = []
    for base in ("kd_t2", "logit_std"):
        exp, memory = experiment(tmp_path, *words, f"method.base={base}"), Memory()
        exp.follow(exp.method(config(tmp_path, *words, f"method.base={base}")["method"]), memory.journal)
        students.append(copied(exp.student))
    assert not same(*students)
