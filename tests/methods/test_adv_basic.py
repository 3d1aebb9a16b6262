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
from kdrun.methods.gan import Judge
from kdrun.run.run import run
from kdrun.train.loop import fit
from kdrun.train.stage import Batch, Outputs, Stage

METHOD = ("method=adv_basic", "student=mlp_32", "method.judge_epochs=3", "dataset.train_count=200")


def two_way(score: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """log P(teacher) and log P(student) of a softmax over (score, 0)."""
    exps = np.exp(np.stack([score.numpy().astype(float), np.zeros(len(score))]))
    teacher, student = np.log(exps / exps.sum(0))
    return teacher, student


def test_the_three_forms_are_the_judges_log_probabilities() -> None:
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
    method.judge = Judge(5, 7)
    found = method.loss(Outputs(logits, []), None, Batch(labels, labels, labels, labels, 1))
    rows = np.exp(logits.double().numpy())
    right = rows[range(4), labels.numpy()] / rows.sum(1)
    assert float(found["ce"]) == pytest.approx(-0.5 * np.log(right).mean(), rel=1e-5)
    teacher, _ = two_way(method.judge(logits).detach())
    assert float(found["adversarial"].detach()) == pytest.approx(-2 * teacher.mean(), rel=1e-5)


def trained(out: Path, *overrides: str) -> tuple[Experiment, AdvBasic, Memory]:
    """The experiment after all stages; the states of student, judge and first student are in its journal."""
    exp, memory = experiment(out, *METHOD, *overrides), Memory()
    method = exp.method(config(out, *METHOD, *overrides)["method"])
    exp.follow(method, memory.journal)
    assert isinstance(method, AdvBasic)
    return exp, method, memory


def judged(out: Path, *overrides: str) -> tuple[Experiment, AdvBasic, Stage]:
    """The experiment before its last stage, and that stage."""
    exp = experiment(out, *METHOD, *overrides)
    method = exp.method(config(out, *METHOD, *overrides)["method"])
    assert isinstance(method, AdvBasic)
    stages = method.stages(exp)
    scores = fit(next(stages), exp.recipe, exp.runtime, Memory())
    return exp, method, stages.send(scores)


def passes(exp: Experiment, method: AdvBasic, model: nn.Module, split: str) -> np.ndarray:
    """Whether the judge finds the teacher the likelier author of the model's logits, for every image of a split."""
    with torch.no_grad():
        teacher, student = two_way(method.judge(exp.predict(model, split)[0]))
    return teacher > student


def test_the_judge_is_as_wide_as_was_asked_for(tmp_path: Path) -> None:
    _, method, _ = judged(tmp_path, "method.judge_width=9")
    layers = [layer for layer in method.judge.modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(10, 9), (9, 9), (9, 1)]


def test_there_is_a_judge_before_a_final_student(tmp_path: Path) -> None:
    _, _, memory = trained(tmp_path)
    assert [stage.name for stage in memory.stages] == ["judge", "distill"]
    assert [row["epoch"] for row in memory.rows] == [1, 2, 3, 1]


def test_the_judge_is_frozen_before_the_final_student(tmp_path: Path) -> None:
    exp, method, stage = judged(tmp_path)
    before, teacher, first = copied(method.judge), copied(exp.teacher.model), copied(method.first.model)  # type: ignore[union-attr]
    student = copied(exp.student)
    assert not any(parameter.requires_grad for parameter in method.judge.parameters())
    fit(stage, exp.recipe, exp.runtime, Memory())
    assert same(copied(method.judge), before)
    assert same(copied(exp.teacher.model), teacher)  # type: ignore[union-attr]
    assert same(copied(method.first.model), first)
    assert not same(copied(exp.student), student)


def test_the_first_student_is_the_baseline_and_trained_once(tmp_path: Path) -> None:
    exp, method, _ = trained(tmp_path)
    alone = exp.trained(exp.student_node, plan=exp.plan)
    assert method.first.key == alone.key
    assert len(list(tmp_path.glob("models/*/manifest.json"))) == 2  # and the teacher


def test_the_final_student_starts_from_the_first_or_its_init(tmp_path: Path) -> None:
    exp, method, _ = judged(tmp_path)
    assert same(copied(exp.student), copied(exp.fresh(exp.student_node, exp.plan.seed)))
    exp, method, _ = judged(tmp_path, "method.init_from_s0=true")
    assert same(copied(exp.student), copied(method.first.model))


def test_the_discriminator_learns_teacher_from_first_student(tmp_path: Path) -> None:
    overrides = ("teacher=cnn", "teacher.recipe.epochs=2", "method.judge_epochs=20", "method.judge_lr=0.01")
    exp, method, _ = trained(tmp_path, *overrides)
    assert method.accuracy(exp, "test") > 0.8
    found = method.findings(exp)
    assert found["judge_accuracy"] == method.accuracy(exp, "test")
    for name, model in (("fooling_rate_first", method.first.model), ("fooling_rate", exp.student)):
        assert found[name] == pytest.approx(passes(exp, method, model, "test").mean())
    logits, _ = exp.predict(exp.student, "test")
    assert found["logit_std"] == pytest.approx(float(np.std(logits.numpy(), ddof=1)), rel=1e-5)


def test_the_discriminator_kept_is_the_best_on_validation(tmp_path: Path) -> None:
    exp, method, memory = trained(tmp_path)
    teacher, first = (passes(exp, method, model, "val") for model in (exp.teacher.model, method.first.model))  # type: ignore[union-attr]
    epochs = [row["val/judge"] for row in memory.rows if "val/judge" in row]
    assert max(epochs) == pytest.approx(np.mean([*teacher, *~first]))


@pytest.mark.parametrize(("form", "said"), [("minimax", 1), ("minimax_clamped", 0), ("non_saturating", 0)])
def test_the_form_to_the_letter_warns_before_anything_is_trained(form: str, said: int, tmp_path: Path) -> None:
    words, heard = ("method=adv_basic", f"method.form={form}"), []
    exp = replace(experiment(tmp_path, *words), notice=heard.append)
    stages = exp.method(config(tmp_path, *words)["method"]).stages(exp)
    next(stages)
    assert len([line for line in heard if "has no lower bound" in line]) == said


def test_the_literal_minimax_runs_away_and_the_error_says_why(tmp_path: Path) -> None:
    settings = ("method.form=minimax", "method.adversarial_weight=10", "optimizer.lr=0.5", "epochs=20")
    with pytest.raises(TrainingError, match=r"^method.form=minimax: the student's logits run away \(std ") as caught:
        trained(tmp_path, *settings)
    assert str(caught.value).endswith("; use another form, or less adversarial_weight")


def test_a_student_is_stopped_at_100_times_the_logit_std(tmp_path: Path) -> None:
    exp, _, stage = judged(tmp_path)
    teacher = float(np.std(exp.predict(exp.teacher.model, "val")[0].numpy(), ddof=1))  # type: ignore[union-attr]
    assert not stage.until({"logit_std": 99 * teacher})
    with pytest.raises(TrainingError, match="run away"):
        stage.until({"logit_std": 101 * teacher})


def test_only_the_literal_minimax_inflates_the_logits(tmp_path: Path) -> None:
    def spread(form: str, weight: int) -> float:
        words = (f"method.form={form}", f"method.adversarial_weight={weight}", "epochs=20", "teacher.recipe.epochs=20")
        return float(trained(tmp_path, *words)[2].rows[-1]["val/logit_std"])

    alone = spread("non_saturating", 0)
    assert spread("non_saturating", 1) < 3 * alone
    assert spread("minimax_clamped", 1) < 3 * alone
    assert spread("minimax", 1) > 4 * alone


@pytest.mark.parametrize("start", ["false", "true"])
def test_a_resume_after_the_discriminator_ends_in_the_same_bits(start: str, tmp_path: Path) -> None:
    words = [*METHOD, "dataset=synthetic", "teacher=mlp_16", "epochs=2", f"method.init_from_s0={start}"]
    made, folder = config(tmp_path, *words), tmp_path / "run"
    first = run(made, folder, words)
    weights, judge = ((folder / name).read_bytes() for name in ("student.safetensors", "stages/01-judge.pt"))
    for path in folder.glob("stages/02-*"):
        path.unlink()
    again = run(made, folder, words)
    assert (folder / "student.safetensors").read_bytes() == weights
    assert (folder / "stages/01-judge.pt").read_bytes() == judge
    assert again["findings"] == first["findings"]
