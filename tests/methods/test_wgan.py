from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import Memory, config, copied, experiment, same
from torch import nn
from torch.optim import Optimizer

from kdrun.core.experiment import Experiment
from kdrun.methods.base import NO_OUTPUTS
from kdrun.methods.cgan import CGAN
from kdrun.methods.wgan import WGAN, wasserstein
from kdrun.train.loop import fit
from kdrun.train.stage import Batch, Outputs

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
SEEN = Batch(LABELS, LABELS, LABELS, LABELS, 1)


def game(**settings: Any) -> WGAN:
    torch.manual_seed(0)
    method = WGAN(critic_width=7, **settings)
    method.discriminator = method.initial_discriminator(5)
    return method


def test_critic_and_student_move_the_score_opposite_ways() -> None:
    method, (student, teacher) = game(ce_weight=0.5, gan_weight=2.0, critic_weight=3.0), torch.randn(2, 6, 5)
    terms = {
        **method.loss(Outputs(student, []), NO_OUTPUTS, SEEN),
        **method.discriminator_terms(teacher, student, SEEN),
    }
    real, fake = (method.discriminator(logits).detach().mean() for logits in (teacher, student))
    torch.testing.assert_close(terms["gan"].detach(), -2 * fake)
    torch.testing.assert_close(terms["gap"].detach(), -3 * (real - fake))
    torch.testing.assert_close(terms["ce"], 0.5 * F.nll_loss(F.log_softmax(student, 1), LABELS))
    assert "penalty" not in terms


def test_the_penalty_is_the_squared_gap_of_gradient_norm_and_one() -> None:
    method = game(lipschitz="gp", penalty=4.0)
    real, fake = torch.randn(2, 6, 5)
    torch.manual_seed(3)
    penalty = method.discriminator_terms(real, fake, SEEN)["penalty"]
    torch.manual_seed(3)
    between = real + torch.rand(6, 1) * (fake - real)
    slopes = []
    for place in between:  # by differences, one logit at a time
        steps = 1e-3 * torch.eye(5)
        with torch.no_grad():
            rises = (method.discriminator(place + steps) - method.discriminator(place - steps)) / 2e-3
        slopes.append(float(rises.norm()))
    assert float(penalty.detach()) == pytest.approx(4 * np.mean([(slope - 1) ** 2 for slope in slopes]), rel=1e-2)


def test_the_critics_weight_scales_all_that_it_goes_down() -> None:
    real, fake = torch.randn(2, 6, 5)
    light, heavy = (game(lipschitz="gp", critic_weight=weight) for weight in (1.0, 8.0))
    terms = []
    for method in (light, heavy):
        torch.manual_seed(3)
        terms.append(method.discriminator_terms(real, fake, SEEN))
    assert terms[0].keys() == {"gap", "penalty"}
    for name, term in terms[0].items():
        torch.testing.assert_close(terms[1][name], 8 * term)


def test_the_penalty_can_be_gone_down_by_the_critic() -> None:
    method = game(lipschitz="gp")
    moved = torch.optim.Adam(method.discriminator.parameters(), lr=0.02)
    torch.manual_seed(0)
    for _ in range(200):
        penalty = method.discriminator_terms(*torch.randn(2, 32, 5), SEEN)["penalty"]
        moved.zero_grad()
        penalty.backward()
        moved.step()
    assert float(method.slope(*torch.randn(2, 200, 5)).mean().detach()) == pytest.approx(1, abs=0.15)


def optimizer_of(method: WGAN, params: list[nn.Parameter]) -> Optimizer:
    """What moves the critic."""
    update = method.discriminator_update(lambda step: {})
    assert callable(update.optimizer)
    return update.optimizer(params)


def test_the_critic_moves_by_the_optimizer_of_its_paper() -> None:
    params = [nn.Parameter(torch.zeros(1))]
    rmsprop = optimizer_of(game(lipschitz="clip", critic_lr=0.03), params)
    assert type(rmsprop) is torch.optim.RMSprop
    assert rmsprop.defaults["lr"] == 0.03
    adam = optimizer_of(game(lipschitz="gp", critic_lr=0.02), params)
    assert type(adam) is torch.optim.Adam
    assert (adam.defaults["lr"], adam.defaults["betas"]) == (0.02, (0.0, 0.9))


def trained(out: Path, *overrides: str) -> tuple[Experiment, WGAN, Memory]:
    words = ("method=wgan", "dataset.train_count=300", *overrides)
    exp, memory = experiment(out, *words), Memory()
    method = exp.method(config(out, *words)["method"])
    exp.follow(method, memory.journal)
    assert isinstance(method, WGAN)
    return exp, method, memory


@pytest.mark.parametrize(("lipschitz", "bounded"), [("clip", True), ("gp", False), ("none", False)])
def test_only_clipping_bounds_the_weights(lipschitz: str, bounded: bool, tmp_path: Path) -> None:
    _, method, _ = trained(tmp_path, f"method.lipschitz={lipschitz}", "method.clip=0.004")
    largest = max(float(weight.abs().max().detach()) for weight in method.discriminator.parameters())
    assert (largest <= 0.004 * (1 + 1e-6)) == bounded


def test_extra_critic_steps_take_no_batch_from_the_student(tmp_path: Path) -> None:
    exp, _, memory = trained(tmp_path, "method.critic_steps=5")
    stage = memory.stages[0]
    assert [update.repeat for update in stage.updates] == [1, 5]
    assert len(stage.stream) == len(exp.stream("distill", exp.recipe.batch_size))


@pytest.mark.parametrize("lipschitz", ["clip", "gp"])
def test_the_student_raises_its_score_where_that_has_a_weight(lipschitz: str, tmp_path: Path) -> None:
    metrics = {}
    for weight in (0, 5):
        settings = (f"method.gan_weight={weight}", f"method.lipschitz={lipschitz}", "epochs=8")
        exp, method, _ = trained(tmp_path, *settings)
        metrics[weight] = method.metrics(exp)
    assert metrics[5]["critic_gap"] < metrics[0]["critic_gap"]
    assert metrics[5]["wasserstein"] != metrics[0]["wasserstein"]


def test_the_student_goes_up_the_critics_score() -> None:
    method, student = game(ce_weight=0.0, gan_weight=1.0), torch.randn(6, 5, requires_grad=True)
    method.loss(Outputs(student, []), NO_OUTPUTS, SEEN)["gan"].backward()
    assert student.grad is not None
    before, after = (float(method.discriminator(z).mean().detach()) for z in (student, student - 0.1 * student.grad))
    assert after > before


def test_the_metrics_are_the_critics_mean_scores_and_their_gap(tmp_path: Path) -> None:
    exp, method, _ = trained(tmp_path)
    metrics = method.metrics(exp)
    with torch.no_grad():
        real, fake = (
            method.discriminator(exp.predict(model, "test")[0]).mean() for model in (exp.teacher.model, exp.student)
        )
    assert metrics["critic_gap"] == pytest.approx(float(real - fake), abs=1e-6)


def test_the_distance_is_the_cost_of_the_cheapest_matching() -> None:
    real, fake = np.random.default_rng(0).normal(size=(2, 6, 3))
    costs = [np.linalg.norm(real - fake[list(order)], axis=1).mean() for order in permutations(range(6))]
    assert wasserstein(torch.tensor(real), torch.tensor(fake)) == pytest.approx(min(costs))


def test_the_distance_of_a_shifted_set_is_the_shifts_length() -> None:
    real = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    fake = real.flip(0) + torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert wasserstein(real, fake) == pytest.approx(5, rel=1e-5)


def test_a_critic_stopped_mid_epoch_resumes_with_the_same_bits(tmp_path: Path) -> None:
    words = ("method=wgan_gp", "epochs=2")
    exp, whole = experiment(tmp_path, *words), Memory()
    stage = next(exp.method(config(tmp_path, *words)["method"]).stages(exp))
    torch.manual_seed(1)
    exp.runtime.save_seconds = 0
    fit(stage, exp.recipe, exp.runtime, whole)
    after = copied(stage.modules)
    other = experiment(tmp_path, *words)
    again = next(other.method(config(tmp_path, *words)["method"]).stages(other))
    fit(again, other.recipe, other.runtime, Memory(whole.saves[1]))
    assert same(copied(again.modules), after)


def test_the_conditional_game_adds_class_loss_and_l1_on_logits() -> None:
    torch.manual_seed(0)
    method, (student, teacher) = CGAN(class_weight=2.0, l1_weight=3.0, discriminator_weight=0.5), torch.randn(2, 6, 5)
    discriminator: Any = method.initial_discriminator(5)
    method.discriminator = discriminator
    terms = method.loss(Outputs(student, []), Outputs(teacher, []), SEEN)
    own = method.discriminator_terms(teacher, student, SEEN)
    named = [
        F.nll_loss(F.log_softmax(discriminator.label(discriminator.body(logits)), 1), LABELS)
        for logits in (student, teacher)
    ]
    torch.testing.assert_close(terms["class"], 2 * named[0])
    torch.testing.assert_close(own["class"], 0.5 * (named[0] + named[1]))
    assert float(terms["l1"]) == pytest.approx(3 * float((student - teacher).abs().sum()) / 30, rel=1e-5)
    torch.testing.assert_close(terms["gan"], 0.1 * F.softplus(-discriminator(student)).mean())
    assert (set(terms), set(own)) == ({"ce", "gan", "class", "l1"}, {"real", "fake", "class"})
