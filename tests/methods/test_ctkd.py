from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from logit_cases import STUDENT, TEACHER, batch, cases, check, summed
from tiny import COMPOSER, Memory, config, experiment
from torch import Tensor

from kdrun.config.build import Builder
from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.base import Outputs
from kdrun.methods.ctkd import CTKD
from kdrun.methods.kd import soft_loss

BUILDER = cast(Experiment, SimpleNamespace(method=lambda node: Builder().build(node, where="method")))


def around(base: str, theta: float, **more: Any) -> CTKD:
    method = CTKD(COMPOSER.compose([f"method={base}"])["method"], **more)
    method.setup(BUILDER)
    method.theta = torch.nn.Parameter(torch.tensor(theta, dtype=torch.float64))
    return method


@pytest.mark.parametrize("case", cases("ctkd"))
def test_value_and_both_gradients_are_the_published_ones(case: dict[str, Any]) -> None:
    values, (theta,) = case["arguments"], case["inputs"]["global_T"]
    method = around("kd_soft", theta, t_min=float(values["t_start"]), t_range=float(values["t_end"]))
    epoch = {-1: 10, -0.5: 5}[values["lambda"]]

    def loss(student: Tensor) -> Tensor:
        return summed(method.soft(student, TEACHER, batch(epoch=epoch)))

    check(loss, case)
    (gradient,) = torch.autograd.grad(loss(STUDENT), method.theta)
    assert float(gradient) == pytest.approx(case["gradients"]["global_T"][0], rel=1e-6)
    assert method.temperature(method.theta).item() == pytest.approx(case["T"])


def test_lambda_falls_as_half_a_cosine() -> None:
    gradients = {}
    for epoch in (1, 4, 10, 11, 200):
        method = around("kd", 0.3)
        (gradients[epoch],) = torch.autograd.grad(
            summed(method.soft(STUDENT, TEACHER, batch(epoch=epoch))), method.theta
        )
    whole = gradients[10]
    assert torch.equal(gradients[11], whole)
    assert torch.equal(gradients[200], whole)
    for epoch in (1, 4):
        torch.testing.assert_close(gradients[epoch], whole * (1 - math.cos(math.pi * epoch / 10)) / 2)


def test_a_step_of_theta_makes_the_task_harder() -> None:
    """With the factor T^2 that is a higher temperature here: gradient descent must raise the loss."""
    method = around("kd_soft", 0.3)
    losses = []
    for _ in range(2):
        loss = summed(method.soft(STUDENT, TEACHER, batch()))
        losses.append(float(loss.detach()))
        (gradient,) = torch.autograd.grad(loss, method.theta)
        with torch.no_grad():
            method.theta -= 0.1 * gradient
    assert losses[1] > losses[0]


def test_the_hard_part_knows_no_learned_temperature() -> None:
    method = around("kd", 0.3)
    terms = method.loss(Outputs(STUDENT, []), Outputs(TEACHER, []), batch())
    torch.testing.assert_close(terms["ce"], 0.1 * torch.nn.functional.cross_entropy(STUDENT, batch().targets))
    t = 1 + 20 / (1 + math.exp(-0.3))
    torch.testing.assert_close(terms["kd"].detach(), 0.9 * t**2 * soft_loss(STUDENT, TEACHER, t))


@pytest.mark.parametrize("base", ["dkd", "dist", "nkd", "wsld", "rld"])
def test_every_method_with_a_temperature_can_be_its_base(base: str) -> None:
    method, t = around(base, 0.3), 1 + 20 / (1 + math.exp(-0.3))
    plain = Builder().build({**method.base, "temperature": t}, where="method")
    expected = summed(plain.soft(STUDENT, TEACHER, batch()))
    loss = summed(method.soft(STUDENT, TEACHER, batch()))
    torch.testing.assert_close(loss.detach(), expected)
    assert torch.autograd.grad(loss, method.theta)[0].isfinite()


@pytest.mark.parametrize("base", ["ttm", "normkd", "logit_std"])
def test_a_base_without_a_temperature_is_refused(base: str) -> None:
    with pytest.raises(ConfigError, match=rf"^method\.base: {base} has no temperature that could be learned; choose "):
        around(base, 0.3)


@pytest.mark.parametrize("words", [["method=ctkd"], ["method=logit_std", "method.base=ctkd"]])
def test_the_temperature_is_learned_and_reported(words: list[str], tmp_path: Path) -> None:
    exp = experiment(tmp_path, *words, "epochs=3")
    method = exp.method(config(tmp_path, *words)["method"])
    exp.follow(method, Memory().journal)
    t = method.metrics(exp)["temperature"]
    assert 1 < t < 21
    assert t != pytest.approx(1 + 20 / (1 + math.exp(-1)), abs=1e-6)
