from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import COMPOSER, Memory, config, copied, experiment, same
from torch import Tensor

from kdrun.config.build import Builder
from kdrun.methods.base import Method, Teacherless
from kdrun.methods.kd import KD, soft_loss
from kdrun.methods.scratch import Scratch
from kdrun.train.stage import Batch, Outputs


def logits(seed: int, rows: int = 6, classes: int = 5, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def entropy(p: np.ndarray, q: np.ndarray) -> float:
    """-sum p log q, mean over the batch."""
    rows = [-sum(a * np.log(b) for a, b in zip(*pair, strict=True)) for pair in zip(p, q, strict=True)]
    return float(np.mean(rows))


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q), summed over classes, mean over the batch."""
    return entropy(p, q) - entropy(p, p)


def right(q: np.ndarray, labels: np.ndarray) -> float:
    """Cross-entropy of the labels."""
    return float(np.mean([-np.log(row[label]) for row, label in zip(q, labels, strict=True)]))


STUDENT, TEACHER = logits(0), logits(1)
LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


def terms(method: Method | Teacherless) -> dict[str, float]:
    batch = Batch(torch.zeros(6, 1), LABELS, torch.arange(6), torch.zeros(6), 1)
    student = Outputs(STUDENT, [])
    if isinstance(method, Method):
        losses = method.loss(student, Outputs(TEACHER, []), batch)
    else:
        losses = method.loss(student, batch)
    return {name: float(term) for name, term in losses.items()}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize("form", ["forward", "reverse", "cross_entropy"])
def test_every_form_is_its_formula(form: str, temperature: float) -> None:
    student, teacher = (softmax(z.numpy() / temperature) for z in (STUDENT, TEACHER))
    expected = {
        "forward": divergence(teacher, student),
        "reverse": divergence(student, teacher),
        "cross_entropy": entropy(teacher, student),
    }[form]
    assert float(soft_loss(STUDENT, TEACHER, temperature, form)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("form", ["forward", "reverse", "cross_entropy"])
def test_mean_is_batchmean_divided_by_the_number_of_classes(form: str) -> None:
    batchmean = soft_loss(STUDENT, TEACHER, 2.0, form)
    assert float(soft_loss(STUDENT, TEACHER, 2.0, form, "mean")) == pytest.approx(float(batchmean) / 5, rel=1e-12)


def gradient(temperature: float, form: str = "forward") -> Tensor:
    student = STUDENT.clone().requires_grad_()
    soft_loss(student, TEACHER, temperature, form).backward()
    assert student.grad is not None
    return student.grad


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_cross_entropy_and_forward_kl_have_the_same_gradient(temperature: float) -> None:
    torch.testing.assert_close(gradient(temperature, "cross_entropy"), gradient(temperature, "forward"))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_gradient_is_the_difference_of_the_soft_outputs(temperature: float) -> None:
    student, teacher = (softmax(z.numpy() / temperature) for z in (STUDENT, TEACHER))
    np.testing.assert_allclose(gradient(temperature).numpy(), (student - teacher) / temperature / 6, rtol=1e-9)


def test_the_factor_t_squared_keeps_the_gradient_at_one_size() -> None:
    sizes = [float(gradient(float(temperature)).norm()) for temperature in range(1, 21)]
    scaled = [size * temperature**2 for temperature, size in enumerate(sizes, start=1)]
    assert max(scaled) / min(scaled) < 3
    assert max(sizes) / min(sizes) > 100


def test_a_high_temperature_matches_centred_logits() -> None:
    """Hinton et al. 2015, eq. 4."""
    student, teacher = (z - z.mean(1, keepdim=True) for z in (STUDENT, TEACHER))
    expected = (student - teacher) / 5 / 6
    torch.testing.assert_close(gradient(1e4) * 1e4**2, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("form", ["forward", "reverse"])
def test_only_logits_a_constant_away_have_a_divergence_of_zero(form: str) -> None:
    shifted = TEACHER + torch.arange(6.0, dtype=torch.float64)[:, None]
    assert float(soft_loss(shifted, TEACHER, 3.0, form)) == pytest.approx(0, abs=1e-12)
    for seed in range(20):
        assert float(soft_loss(logits(seed), TEACHER + 1e-3 * logits(seed), 3.0, form)) > 0
    assert float(soft_loss(TEACHER + 1e-3 * logits(3), TEACHER, 3.0, form)) > 0


def test_the_least_cross_entropy_is_the_teachers_own_entropy() -> None:
    teacher = softmax(TEACHER.numpy())
    least = entropy(teacher, teacher)
    assert float(soft_loss(TEACHER, TEACHER, 1.0, "cross_entropy")) == pytest.approx(least)
    assert float(soft_loss(STUDENT, TEACHER, 1.0, "cross_entropy")) > least


@pytest.mark.parametrize("form", ["forward", "reverse", "cross_entropy"])
def test_logits_of_any_size_give_a_finite_loss_and_gradient(form: str) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = soft_loss(student, torch.tensor([[-1e4, 1e4, 0.0]]), 1.0, form)
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


HINTON = {
    "kd": (0.1, 0.9, 4),
    "kd_t2": (0.1, 0.9, 2),
    "kd_t20": (0.1, 0.9, 20),
    "kd_soft": (0, 1, 4),
    "blkd": (0.9, 0.1, 3),
    "rekd": (0.4, 0.6, 20),
    "dekd": (0.05, 0.95, 20),
    "tfkd_self": (0.05, 0.95, 6),
}
"""Weight of CE, weight of T^2 KL, and T, of the presets that are a sum of these two."""


def preset(name: str) -> dict[str, float]:
    """The terms as the header of the preset writes them."""
    z, v, y = STUDENT.numpy(), TEACHER.numpy(), LABELS.numpy()
    hard = right(softmax(z), y)
    if name in HINTON:
        ce, kd, t = HINTON[name]
        soft = {"kd": kd * t**2 * divergence(softmax(v / t), softmax(z / t))}
        return {"ce": ce * hard, **soft} if ce else soft
    if name == "kd_hard":
        return {"ce": right(softmax(z), v.argmax(1))}
    if name == "kd_sum":
        return {"ce": hard, "kd": 4 * entropy(softmax(v / 4), softmax(z / 4))}
    if name == "kd_reverse":
        return {"ce": 0.75 * hard, "kd": 0.25 * 4 * divergence(softmax(z / 2), softmax(v / 2))}
    assert name == "kd_softened_hard", f"{name}: its formula is not written here"
    return {"ce": right(softmax(z / 10), y), "kd": entropy(softmax(v / 10), softmax(z / 10))}


PRESETS = {name: COMPOSER.compose([f"method={name}"])["method"] for name in COMPOSER.options.names("method")}


@pytest.mark.parametrize("name", [name for name, node in PRESETS.items() if node["_target_"] == "kdrun.methods.kd.KD"])
def test_every_preset_is_the_formula_in_its_header(name: str) -> None:
    assert terms(Builder().build(PRESETS[name], where="method")) == pytest.approx(preset(name), rel=1e-9)


def test_a_method_takes_its_mean_where_it_is_configured_so() -> None:
    as_run, written = terms(KD(reduction="mean")), terms(KD())
    assert as_run == pytest.approx({"ce": written["ce"], "kd": written["kd"] / 5}, rel=1e-12)


def test_the_teachers_classes_are_not_learned_without_a_teacher(tmp_path: Path) -> None:
    assert KD(kd_weight=0.0, hard_targets="teacher").needs_teacher
    assert not KD(kd_weight=0.0).needs_teacher
    hard = ("method=kd_hard", "dataset.noise=3")  # so much that the teacher errs
    assert not same(trained(tmp_path, *hard)[0], trained(tmp_path, *hard[1:], "method=scratch")[0])


def test_a_weight_of_zero_leaves_its_term_out() -> None:
    assert set(terms(KD(ce_weight=0.0))) == {"kd"}
    assert set(terms(KD(kd_weight=0.0))) == {"ce"}


def test_smoothed_labels_give_every_class_its_part() -> None:
    logs = np.log(softmax(STUDENT.numpy()))
    expected = 0.8 * right(np.exp(logs), LABELS.numpy()) - 0.2 * logs.mean()
    assert terms(Scratch(label_smoothing=0.2)) == pytest.approx({"ce": expected}, rel=1e-9)


def trained(out: Path, *overrides: str) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    exp, memory = experiment(out, "epochs=2", *overrides), Memory()
    exp.follow(exp.method(config(out, *overrides)["method"]), memory.journal)
    return copied(exp.student), memory.rows


def test_without_soft_targets_it_is_the_baseline_bit_for_bit(tmp_path: Path) -> None:
    weights, rows = trained(tmp_path, "method=kd", "method.ce_weight=1", "method.kd_weight=0")
    baseline, expected = trained(tmp_path, "method=scratch")
    assert same(weights, baseline)
    assert [row["loss/ce"] for row in rows] == [row["loss/ce"] for row in expected]


def test_the_images_that_a_teacher_was_run_on_are_counted(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=kd", "epochs=3")
    scores, _ = exp.follow(exp.method(config(tmp_path, "method=kd")["method"]), Memory().journal)
    assert scores["teacher_images"] == 3 * exp.data.train.size == 3 * 81


def test_with_soft_targets_it_is_another(tmp_path: Path) -> None:
    assert not same(trained(tmp_path, "method=kd")[0], trained(tmp_path, "method=scratch")[0])
