from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Memory, config, copied, experiment, same
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.errors import TrainingError
from kdrun.methods.adv_basic import AdvBasic
from kdrun.methods.gan import Discriminator
from kdrun.run.run import run
from kdrun.train.loop import fit
from kdrun.train.stage import Batch, Outputs, Stage

METHOD = ("method=adv_basic", "student=mlp_32", "method.discriminator_epochs=3", "dataset.train_count=200")


def two_way(score: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """log P(teacher) and log P(student) of a softmax over (score, 0)."""
    exps = np.exp(np.stack([score.numpy().astype(float), np.zeros(len(score))]))
    teacher, student = np.log(exps / exps.sum(0))
    return teacher, student


def test_each_form_is_a_log_probability_of_the_discriminator() -> None:
    score = torch.tensor([-3.0, 0.0, 0.5, 4.0, 9.0])
    teacher, student = two_way(score)
    assert AdvBasic(form="non_saturating").adversarial(score).numpy() == pytest.approx(-teacher, rel=1e-5)
    assert AdvBasic(form="minimax").adversarial(score).numpy() == pytest.approx(student, rel=1e-5)
    assert AdvBasic(form="minimax_clamped").adversarial(score).numpy() == pytest.approx(student.clip(-5), rel=1e-5)


@pytest.mark.parametrize("form", ["non_saturating", "minimax", "minimax_clamped"])
def test_all_three_forms_push_the_score_the_same_way(form: Any) -> None:
    score = torch.linspace(-4, 4, 9, requires_grad=True)
    AdvBasic(form=form).adversarial(score).sum().backward()
    assert score.grad is not None
    assert (score.grad < 0).all()


def test_the_clamped_form_has_no_gradient_once_it_fools() -> None:
    score = torch.tensor([4.0, 6.0, 60.0], requires_grad=True)
    AdvBasic(form="minimax_clamped").adversarial(score).sum().backward()
    assert score.grad is not None
    assert (score.grad != 0).tolist() == [True, False, False]


def test_the_students_loss_is_the_weighted_sum_of_both_terms() -> None:
    torch.manual_seed(0)
    method, logits, labels = AdvBasic(0.5, 2.0), torch.randn(4, 5), torch.tensor([0, 4, 2, 1])
    method.discriminator = Discriminator(5, 7)
    terms = method.terms(Outputs(logits, []), Batch(labels, labels, labels, labels, 1))
    rows = np.exp(logits.double().numpy())
    right = rows[range(4), labels.numpy()] / rows.sum(1)
    assert float(terms["ce"]) == pytest.approx(-0.5 * np.log(right).mean(), rel=1e-5)
    teacher, _ = two_way(method.discriminator(logits).detach())
    assert float(terms["adversarial"].detach()) == pytest.approx(-2 * teacher.mean(), rel=1e-5)


def trained(out: Path, *overrides: str) -> tuple[Experiment, AdvBasic, Memory]:
    """The experiment after all stages; the states of student, discriminator and first student are in its journal."""
    exp, memory = experiment(out, *METHOD, *overrides), Memory()
    method = exp.method(config(out, *METHOD, *overrides)["method"])
    exp.follow(method, memory.journal)
    assert isinstance(method, AdvBasic)
    return exp, method, memory


def prepared(out: Path, *overrides: str) -> tuple[Experiment, AdvBasic, Stage]:
    """The experiment before its last stage, and that stage."""
    exp = experiment(out, *METHOD, *overrides)
    method = exp.method(config(out, *METHOD, *overrides)["method"])
    assert isinstance(method, AdvBasic)
    stages = method.stages(exp)
    scores = fit(next(stages), exp.recipe, exp.runtime, Memory())
    return exp, method, stages.send(scores)


def passes(exp: Experiment, method: AdvBasic, model: nn.Module, split: str) -> np.ndarray:
    """Whether the discriminator takes the model's logits for the teacher's, image by image of a split."""
    with torch.no_grad():
        teacher, student = two_way(method.discriminator(exp.predict(model, split)[0]))
    return teacher > student


def test_the_discriminator_is_as_wide_as_configured(tmp_path: Path) -> None:
    _, method, _ = prepared(tmp_path, "method.discriminator_width=9")
    layers = [layer for layer in method.discriminator.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(10, 9), (9, 9), (9, 1)]


def test_there_is_a_discriminator_before_a_final_student(tmp_path: Path) -> None:
    _, _, memory = trained(tmp_path)
    assert [stage.name for stage in memory.stages] == ["discriminator", "distill"]
    assert [row["epoch"] for row in memory.rows] == [1, 2, 3, 1]


def test_the_discriminator_is_frozen_before_the_final_student(tmp_path: Path) -> None:
    exp, method, stage = prepared(tmp_path)
    before, teacher, first = copied(method.discriminator), copied(exp.teacher.model), copied(method.first.model)
    student = copied(exp.student)
    assert not any(parameter.requires_grad for parameter in method.discriminator.parameters())
    fit(stage, exp.recipe, exp.runtime, Memory())
    assert same(copied(method.discriminator), before)
    assert same(copied(exp.teacher.model), teacher)
    assert same(copied(method.first.model), first)
    assert not same(copied(exp.student), student)


def test_the_first_student_is_the_baseline_and_trained_once(tmp_path: Path) -> None:
    exp, method, _ = trained(tmp_path, "seed=5")  # the teacher has another
    baseline = exp.trained(exp.student_node, plan=exp.plan)
    assert method.first.key == baseline.key
    assert len(list(tmp_path.glob("models/*/manifest.json"))) == 2  # and the teacher


def test_the_first_student_is_a_cost_although_the_baseline_is_it(tmp_path: Path) -> None:
    words = [*METHOD, "epochs=1"]
    summary = run(config(tmp_path, *words), tmp_path / "run", words)
    assert [link["key"] for link in summary["chain"]] == [summary["models"]["baseline"]["key"]]


def test_the_final_stage_ends_at_the_score_of_its_recipe(tmp_path: Path) -> None:
    exp = experiment(tmp_path, *METHOD)
    exp = replace(exp, plan=replace(exp.plan, node={**exp.plan.node, "stop_at": 0.5}))
    stages = AdvBasic(discriminator_epochs=1).stages(exp)
    final = stages.send(fit(next(stages), exp.recipe, exp.runtime, Memory()))
    assert [final.until({"top1": top1, "logit_std": 0.0}) for top1 in (0.4, 0.5, 0.6)] == [False, True, True]


def test_the_final_student_starts_from_the_first_or_its_init(tmp_path: Path) -> None:
    exp, method, _ = prepared(tmp_path)
    assert same(copied(exp.student), copied(exp.initialised(exp.student_node, exp.plan.seed)))
    exp, method, _ = prepared(tmp_path, "method.init_from_s0=true")
    assert same(copied(exp.student), copied(method.first.model))


def test_the_discriminator_learns_teacher_from_first_student(tmp_path: Path) -> None:
    overrides = (
        "teacher=cnn",
        "teacher.recipe.epochs=2",
        "method.discriminator_epochs=20",
        "method.discriminator_lr=0.01",
    )
    exp, method, _ = trained(tmp_path, *overrides)
    assert method.accuracy(exp, "test") > 0.8
    metrics = method.metrics(exp)
    assert metrics["discriminator_accuracy"] == method.accuracy(exp, "test")
    for name, model in (("fooling_rate_first", method.first.model), ("fooling_rate", exp.student)):
        assert metrics[name] == pytest.approx(passes(exp, method, model, "test").mean())
    logits, _ = exp.predict(exp.student, "test")
    assert metrics["logit_std"] == pytest.approx(float(np.std(logits.numpy(), ddof=1)), rel=1e-5)


def test_the_discriminator_kept_is_the_best_on_validation(tmp_path: Path) -> None:
    exp, method, memory = trained(tmp_path)
    teacher, first = (passes(exp, method, model, "val") for model in (exp.teacher.model, method.first.model))
    epochs = [row["val/accuracy"] for row in memory.rows if "val/accuracy" in row]
    assert max(epochs) == pytest.approx(np.mean([*teacher, *~first]))


@pytest.mark.parametrize(("form", "warnings"), [("minimax", 1), ("minimax_clamped", 0), ("non_saturating", 0)])
def test_the_form_to_the_letter_warns_before_anything_is_trained(form: str, warnings: int, tmp_path: Path) -> None:
    words = ("method=adv_basic", f"method.form={form}")
    notices: list[str] = []
    exp = replace(experiment(tmp_path, *words), notice=notices.append)
    stages = exp.method(config(tmp_path, *words)["method"]).stages(exp)
    next(stages)
    assert len([line for line in notices if "has no lower bound" in line]) == warnings


def test_the_literal_minimax_runs_away_and_the_error_says_why(tmp_path: Path) -> None:
    settings = ("method.form=minimax", "method.adversarial_weight=10", "optimizer.lr=0.5", "epochs=20")
    with pytest.raises(TrainingError, match=r"^method.form=minimax: the student's logits run away \(std ") as caught:
        trained(tmp_path, *settings)
    assert str(caught.value).endswith("; use another form, or less adversarial_weight")


def test_a_student_is_stopped_at_100_times_the_logit_std(tmp_path: Path) -> None:
    exp, _, stage = prepared(tmp_path)
    teacher = float(np.std(exp.predict(exp.teacher.model, "val")[0].numpy(), ddof=1))
    assert not stage.until({"logit_std": 99 * teacher})
    with pytest.raises(TrainingError, match="run away"):
        stage.until({"logit_std": 101 * teacher})


def test_only_the_literal_minimax_inflates_the_logits(tmp_path: Path) -> None:
    def spread(form: str, weight: int) -> float:
        words = (f"method.form={form}", f"method.adversarial_weight={weight}", "epochs=20", "teacher.recipe.epochs=20")
        return float(trained(tmp_path, *words)[2].rows[-1]["val/logit_std"])

    baseline = spread("non_saturating", 0)
    assert spread("non_saturating", 1) < 3 * baseline
    assert spread("minimax_clamped", 1) < 3 * baseline
    assert spread("minimax", 1) > 4 * baseline


@pytest.mark.parametrize("start", ["false", "true"])
def test_a_resume_after_the_discriminator_ends_in_the_same_bits(start: str, tmp_path: Path) -> None:
    words = [*METHOD, "dataset=synthetic", "teacher=mlp_16", "epochs=2", f"method.init_from_s0={start}"]
    settings, folder = config(tmp_path, *words), tmp_path / "run"
    first = run(settings, folder, words)
    weights, discriminator = (
        (folder / name).read_bytes() for name in ("student.safetensors", "stages/01-discriminator.pt")
    )
    for path in folder.glob("stages/02-*"):
        path.unlink()
    again = run(settings, folder, words)
    assert (folder / "student.safetensors").read_bytes() == weights
    assert (folder / "stages/01-discriminator.pt").read_bytes() == discriminator
    assert again["method_metrics"] == first["method_metrics"]
