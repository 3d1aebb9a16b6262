"""The two hidden-layer methods of PyTorch's tutorial."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import experiment

from kdrun.errors import ConfigError
from kdrun.methods.cosine import CosineLoss, pooled
from kdrun.methods.hint_joint import HintJoint
from kdrun.train.stage import Batch, Outputs

LABELS = torch.tensor([0, 3, 1])
SEEN = Batch(LABELS, LABELS, LABELS, LABELS, 1)


def outputs(*features: torch.Tensor) -> Outputs:
    return Outputs(torch.randn(3, 4), list(features))


def test_the_cosine_of_the_pooled_features_is_that_of_numpy() -> None:
    method, student, teacher = CosineLoss(), outputs(torch.randn(3, 2, 2, 2)), outputs(torch.randn(3, 6, 2, 2))
    method.connect([torch.Size((1, 2, 2, 2))], [torch.Size((1, 6, 2, 2))])
    terms = method.loss(student, teacher, SEEN)
    distances = []
    for guess, hint in zip(student.features[0].flatten(1).numpy(), teacher.features[0].flatten(1).numpy(), strict=True):
        short = [hint[3 * place : 3 * place + 3].mean() for place in range(8)]
        distances.append(1 - np.dot(guess, short) / np.linalg.norm(guess) / np.linalg.norm(short))
    assert float(terms["cosine"]) == pytest.approx(0.25 * np.mean(distances), rel=1e-5)
    torch.testing.assert_close(terms["ce"], 0.75 * F.nll_loss(F.log_softmax(student.logits, 1), LABELS))


def test_pooling_by_two_is_average_pooling_as_in_the_tutorial() -> None:
    features = torch.randn(3, 2048)
    torch.testing.assert_close(pooled(features, 1024), F.avg_pool1d(features[:, None], 2)[:, 0])


def test_features_that_are_no_multiple_are_refused() -> None:
    what = "^method.guided: the teacher's 20 features are no multiple of the student's 8; choose other taps$"
    with pytest.raises(ConfigError, match=what):
        CosineLoss().connect([torch.Size((1, 2, 2, 2))], [torch.Size((1, 5, 2, 2))])


def test_the_hint_is_the_mean_squared_error_after_the_regressor() -> None:
    method, student, teacher = HintJoint(), outputs(torch.randn(3, 2, 5, 5)), outputs(torch.randn(3, 6, 5, 5))
    method.connect([torch.Size((1, 2, 5, 5))], [torch.Size((1, 6, 5, 5))])
    assert method.regressor.weight.shape == (6, 2, 3, 3)
    with torch.no_grad():
        terms = method.loss(student, teacher, SEEN)
        padded = F.pad(student.features[0], (1, 1, 1, 1))
        guess = torch.einsum("ncijab,ocab->noij", padded.unfold(2, 3, 1).unfold(3, 3, 1), method.regressor.weight)
        guess += method.regressor.bias[:, None, None]
    squares = (guess - teacher.features[0]).square().sum()
    assert float(terms["hint"]) == pytest.approx(0.25 * float(squares) / guess.numel(), rel=1e-4)
    torch.testing.assert_close(terms["ce"], 0.75 * F.nll_loss(F.log_softmax(student.logits, 1), LABELS))


@pytest.mark.parametrize("guided", [(1, 2, 4, 4), (1, 2)])
def test_maps_of_two_sizes_are_refused_with_both(guided: tuple[int, ...]) -> None:
    size = "x".join(map(str, guided[1:]))
    what = f"^method.guided: the student's {size} and the teacher's 6x5x5 are not maps of one size; choose other taps$"
    with pytest.raises(ConfigError, match=what):
        HintJoint().connect([torch.Size(guided)], [torch.Size((1, 6, 5, 5))])


def test_the_middle_taps_of_the_tutorials_pair_are_its_last_maps(tmp_path: Path) -> None:
    data = ("dataset.channels=3", "dataset.size=32", "dataset.mean=[0.5,0.5,0.5]", "dataset.std=[0.5,0.5,0.5]")
    exp = experiment(tmp_path, "teacher=deep_cnn", "student=light_cnn", *data, "fast_dev_run=true", "method=cosine")
    student, teacher = exp.shapes(exp.student), exp.shapes(exp.teacher)
    assert (student[1][1:], teacher[1][1:]) == ((16, 8, 8), (32, 8, 8))
    for method in (CosineLoss(), HintJoint()):
        method.connect(student, teacher)
        assert (method.student_tap, method.teacher_tap) == (1, 1)
