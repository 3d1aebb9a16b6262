from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Memory, config, copied, experiment, same
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.methods.gan import GAN, Judge
from kdrun.train.loop import descend, fit, one_step
from kdrun.train.stage import Batch, Outputs, Stage
from kdrun.train.training import Training

LABELS = torch.tensor([0, 4, 2, 2, 1, 3])
SEEN = Batch(LABELS, LABELS, LABELS, LABELS, 1)
BATCH = SEEN


def method(**settings: float) -> GAN:
    torch.manual_seed(0)
    made = GAN(**settings)  # type: ignore[arg-type]
    made.judge = Judge(5, 7)
    return made


def log_sigmoid(x: Tensor) -> np.ndarray:
    return np.log(1 / (1 + np.exp(-x.detach().double().numpy())))


def test_the_student_loss_is_labels_plus_fooling() -> None:
    made, (student, teacher) = method(ce_weight=0.5, gan_weight=2.0), torch.randn(2, 6, 5)
    found = made.loss(Outputs(student, []), Outputs(teacher, []), BATCH)
    rows = np.exp(student.double().numpy())
    right = [row[label] / row.sum() for row, label in zip(rows, LABELS.numpy(), strict=True)]
    assert float(found["ce"]) == pytest.approx(-0.5 * np.log(right).mean(), rel=1e-5)
    assert float(found["gan"].detach()) == pytest.approx(-2 * log_sigmoid(made.judge(student)).mean(), rel=1e-5)


def test_the_judge_goes_down_where_it_takes_one_for_the_other() -> None:
    made, (student, teacher) = method(judge_weight=3.0), torch.randn(2, 6, 5)
    found = made.judge_terms(teacher, student, BATCH)
    assert float(found["judge/real"].detach()) == pytest.approx(-3 * log_sigmoid(made.judge(teacher)).mean(), rel=1e-5)
    not_fake = np.log(1 - np.exp(log_sigmoid(made.judge(student))))
    assert float(found["judge/fake"].detach()) == pytest.approx(-3 * not_fake.mean(), rel=1e-5)


def test_a_judge_that_is_sure_gives_finite_losses() -> None:
    made = method()
    with torch.no_grad():
        made.judge[4].bias.fill_(1e4)
    found = made.judge_terms(torch.randn(6, 5), torch.randn(6, 5), BATCH)
    assert all(term.isfinite() for term in found.values())


def test_the_judge_gives_each_sample_one_number() -> None:
    assert Judge(5, 7)(torch.randn(6, 5)).shape == (6,)
    assert Judge(5, 7)(torch.randn(1, 5)).shape == (1,)


NETS = ("teacher=resnet8", "student=resnet8", "method=gan", "batch_size=16")


def begun(out: Path, *overrides: str) -> tuple[Experiment, Stage, Training]:
    exp = experiment(out, *NETS, *overrides)
    stage = next(exp.method(config(out, *NETS, *overrides)["method"]).stages(exp))
    return exp, stage, Training.begun(stage, exp.recipe, exp.runtime)


def grads(model: torch.nn.Module) -> list[Tensor | None]:
    return [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]


def test_neither_players_step_touches_the_other_or_the_teacher(tmp_path: Path) -> None:
    exp, stage, training = begun(tmp_path)
    assert exp.teacher is not None
    judge = stage.modules["method"].judge
    batch = next(stage.stream.epoch(1))
    given = stage.given(batch)
    before = copied(judge)
    descend(stage.updates[0], training.optimizers[0], stage.updates[0].loss(batch, given))
    assert same(copied(judge), before)
    assert grads(judge) == [None] * len(before)

    weights, gradients, teacher = copied(exp.student), grads(exp.student), copied(exp.teacher.model)
    descend(stage.updates[1], training.optimizers[1], stage.updates[1].loss(batch, given))
    assert same(copied(exp.student), weights)
    after = grads(exp.student)
    assert all(torch.equal(*pair) for pair in zip(gradients, after, strict=True) if pair[0] is not None)
    assert not same(copied(judge), before)
    assert same(copied(exp.teacher.model), teacher)


def test_the_discriminator_sees_the_logits_of_the_student_step(tmp_path: Path) -> None:
    exp, stage, training = begun(tmp_path)
    method = stage.modules["method"]
    batch = next(stage.stream.epoch(1))
    said, seen = [], []
    exp.student.register_forward_hook(lambda module, args, outputs: said.append(outputs.logits))
    terms = method.judge_terms
    method.judge_terms = lambda real, fake, batch: seen.append(fake) or terms(real, fake, batch)
    stage.modules.train()
    one_step(training, batch)
    assert len(said) == 1  # and BatchNorm has counted the batch once
    assert torch.equal(seen[0], said[0])
    assert not seen[0].requires_grad
    assert int(exp.student.model.bn1.num_batches_tracked) == 1


def test_the_judge_has_its_own_rate_and_number_of_steps(tmp_path: Path) -> None:
    exp, stage, _ = begun(tmp_path, "method.judge_lr=0.003", "method.judge_steps=3")
    memory = Memory()
    fit(stage, exp.recipe, exp.runtime, memory)
    assert [update.repeat for update in stage.updates] == [1, 3]
    assert (memory.rows[0]["lr/0"], memory.rows[0]["lr/1"]) == (0.001, 0.003)
    assert {name for name in memory.rows[0] if name.startswith("loss/")} == {
        "loss/ce",
        "loss/gan",
        "loss/judge/real",
        "loss/judge/fake",
    }


def test_a_judge_alone_learns_to_tell_them_apart(tmp_path: Path) -> None:
    overrides = ("method.gan_weight=0", "method.judge_lr=0.01", "epochs=6")
    exp, stage, _ = begun(tmp_path, *overrides)
    memory = Memory()
    fit(stage, exp.recipe, exp.runtime, memory)
    errors = [row["loss/judge/real"] + row["loss/judge/fake"] for row in memory.rows]
    assert errors[0] > errors[-1]
    assert errors[-1] < 2 * np.log(2)  # what a coin would have


def test_the_judge_moves_by_adam_at_its_own_rate() -> None:
    adam = GAN(judge_lr=0.03).judge_optimizer([torch.nn.Parameter(torch.zeros(1))])
    assert type(adam) is torch.optim.Adam
    assert (adam.defaults["lr"], adam.defaults["betas"]) == (0.03, (0.5, 0.9))


def test_the_metrics_are_mean_probabilities_and_the_fooling_rate() -> None:
    real, fake = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([-2.0, 3.0, 1.0])
    game = GAN()
    game.judge = torch.nn.Identity()
    found = game.verdicts(real, fake)
    sure = [float((1 / (1 + np.exp(-side.numpy()))).mean()) for side in (real, fake)]
    assert found["p_real_teacher"] == pytest.approx(sure[0])
    assert found["p_real_student"] == pytest.approx(sure[1])
    assert found["p_real_gap"] == pytest.approx(sure[0] - sure[1])
    assert found["fooling_rate"] == pytest.approx(2 / 3)
