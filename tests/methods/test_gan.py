from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Memory, config, copied, experiment, same
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.methods.gan import GAN, Discriminator
from kdrun.train.loop import Training, descend, fit, one_step
from kdrun.train.stage import Batch, Outputs, Stage, Step

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
BATCH = Batch(LABELS, LABELS, LABELS, LABELS, 1)


def method(**settings: float) -> GAN:
    torch.manual_seed(0)
    game = GAN(**settings)  # type: ignore[arg-type]
    game.discriminator = Discriminator(5, 7)
    return game


def log_sigmoid(x: Tensor) -> np.ndarray:
    return np.log(1 / (1 + np.exp(-x.detach().double().numpy())))


def test_the_student_loss_is_labels_plus_fooling() -> None:
    game, (student, teacher) = method(ce_weight=0.5, gan_weight=2.0), torch.randn(2, 6, 5)
    terms = game.loss(Outputs(student, []), Outputs(teacher, []), BATCH)
    rows = np.exp(student.double().numpy())
    right = [row[label] / row.sum() for row, label in zip(rows, LABELS.numpy(), strict=True)]
    assert float(terms["ce"]) == pytest.approx(-0.5 * np.log(right).mean(), rel=1e-5)
    assert float(terms["gan"].detach()) == pytest.approx(-2 * log_sigmoid(game.discriminator(student)).mean(), rel=1e-5)


def test_the_discriminator_learns_where_it_takes_one_for_another() -> None:
    game, (student, teacher) = method(discriminator_weight=3.0), torch.randn(2, 6, 5)
    terms = game.discriminator_terms(teacher, student, BATCH)
    assert float(terms["real"].detach()) == pytest.approx(
        -3 * log_sigmoid(game.discriminator(teacher)).mean(), rel=1e-5
    )
    not_fake = np.log(1 - np.exp(log_sigmoid(game.discriminator(student))))
    assert float(terms["fake"].detach()) == pytest.approx(-3 * not_fake.mean(), rel=1e-5)


def test_a_discriminator_that_is_sure_gives_finite_losses() -> None:
    game = method()
    with torch.no_grad():
        game.discriminator[4].bias.fill_(1e4)
    terms = game.discriminator_terms(torch.randn(6, 5), torch.randn(6, 5), BATCH)
    assert all(term.isfinite() for term in terms.values())


def test_the_discriminator_gives_each_sample_one_number() -> None:
    assert Discriminator(5, 7)(torch.randn(6, 5)).shape == (6,)
    assert Discriminator(5, 7)(torch.randn(1, 5)).shape == (1,)


NETS = ("teacher=resnet8", "student=resnet8", "method=gan", "batch_size=16")


def begun(out: Path, *overrides: str) -> tuple[Experiment, GAN, Stage, Training]:
    exp = experiment(out, *NETS, *overrides)
    method: Any = exp.method(config(out, *NETS, *overrides)["method"])
    stage = next(method.stages(exp))
    return exp, method, stage, Training.begin(stage, exp.recipe, exp.runtime)


def grads(model: torch.nn.Module) -> list[Tensor | None]:
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]


def test_neither_players_step_touches_the_other_or_the_teacher(tmp_path: Path) -> None:
    exp, _, stage, training = begun(tmp_path)
    discriminator = stage.players["discriminator"]
    batch = next(stage.stream.epoch(1))
    step = Step(batch, stage)
    before = copied(discriminator)
    descend(stage.updates[0], training.optimizers[0], stage.updates[0].loss(step))
    assert same(copied(discriminator), before)
    assert grads(discriminator) == [None] * len(before)

    weights, gradients, teacher = copied(exp.student), grads(exp.student), copied(exp.teacher.model)
    descend(stage.updates[1], training.optimizers[1], stage.updates[1].loss(step))
    assert same(copied(exp.student), weights)
    after = grads(exp.student)
    assert all(torch.equal(*pair) for pair in zip(gradients, after, strict=True) if pair[0] is not None)
    assert not same(copied(discriminator), before)
    assert same(copied(exp.teacher.model), teacher)


def test_the_discriminator_sees_the_logits_of_the_student_step(tmp_path: Path) -> None:
    exp, method, stage, training = begun(tmp_path)
    batch = next(stage.stream.epoch(1))
    student, seen = [], []
    exp.student.register_forward_hook(lambda module, args, outputs: student.append(outputs.logits))
    terms: Any = method.discriminator_terms
    watched: Any = lambda real, fake, batch: seen.append(fake) or terms(real, fake, batch)  # noqa: E731
    method.discriminator_terms = watched  # type: ignore[method-assign]
    stage.modules.train()
    one_step(training, batch)
    assert len(student) == 1  # and BatchNorm has counted the batch once
    assert torch.equal(seen[0], student[0])
    assert not seen[0].requires_grad
    assert int(exp.student.model.bn1.num_batches_tracked) == 1


def test_the_discriminator_has_its_own_rate_and_number_of_steps(tmp_path: Path) -> None:
    exp, _, stage, _ = begun(tmp_path, "method.discriminator_lr=0.003", "method.discriminator_steps=3")
    memory = Memory()
    fit(stage, exp.recipe, exp.runtime, memory)
    assert [update.repeat for update in stage.updates] == [1, 3]
    assert (memory.rows[0]["lr/0"], memory.rows[0]["lr/1"]) == (0.001, 0.003)
    assert {name for name in memory.rows[0] if name.startswith("loss/")} == {
        "loss/ce",
        "loss/gan",
        "loss/discriminator/real",
        "loss/discriminator/fake",
    }


def test_a_discriminator_learns_to_separate_a_free_student(tmp_path: Path) -> None:
    overrides = ("method.gan_weight=0", "method.discriminator_lr=0.01", "epochs=6")
    exp, _, stage, _ = begun(tmp_path, *overrides)
    memory = Memory()
    fit(stage, exp.recipe, exp.runtime, memory)
    errors = [row["loss/discriminator/real"] + row["loss/discriminator/fake"] for row in memory.rows]
    assert errors[0] > errors[-1]
    assert errors[-1] < 2 * np.log(2)  # what a coin would have


def test_the_discriminator_moves_by_adam_at_its_own_rate() -> None:
    update = method(discriminator_lr=0.03).discriminator_update(lambda step: {})
    assert callable(update.optimizer)
    adam = update.optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert type(adam) is torch.optim.Adam
    assert (adam.defaults["lr"], adam.defaults["betas"]) == (0.03, (0.5, 0.9))


def test_the_metrics_are_mean_probabilities_and_the_fooling_rate() -> None:
    real, fake = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([-2.0, 3.0, -1.0])
    game = GAN()
    game.discriminator = torch.nn.Identity()
    verdicts = game.verdicts(real, fake)
    sure = [float((1 / (1 + np.exp(-side.numpy()))).mean()) for side in (real, fake)]
    assert verdicts["p_real_teacher"] == pytest.approx(sure[0])
    assert verdicts["p_real_student"] == pytest.approx(sure[1])
    assert verdicts["p_real_gap"] == pytest.approx(sure[0] - sure[1])
    assert verdicts["fooling_rate"] == pytest.approx(1 / 3)
