"""Softmax regression representation learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import batch, check_finite
from torch import Tensor, nn

from kdrun.methods.srrl import SRRL
from kdrun.train.stage import Outputs


def connected(channels: int, width: int) -> SRRL:
    torch.manual_seed(0)
    method = SRRL(feature_weight=3.0, regression_weight=2.0)
    method.student_tap, method.teacher_tap, method.classifier = 0, 0, (nn.Linear(width, 7).double(),)
    method.bridge(channels, width)
    return method.double()


def srrl(student: Tensor, teacher: Tensor) -> Tensor:
    method, vectors = connected(student.shape[1], teacher.shape[1]), teacher.double().mean((2, 3))
    logits = method.classifier[0](vectors).detach()
    terms = method.loss(Outputs(logits[:, :4], [student.double()]), Outputs(logits, [vectors]), batch(len(student)))
    return terms["feature"] + terms["regression"]


def test_the_errors_are_those_of_numpy() -> None:
    student, vectors, logits = torch.randn(3, 4, 2, 2).double(), torch.randn(3, 5).double(), torch.randn(3, 7).double()
    method = connected(4, 5)
    terms = method.loss(Outputs(logits, [student]), Outputs(logits, [vectors]), batch(3))
    mixed = np.einsum("oc,nchw->nohw", method.connector[0].weight[:, :, 0, 0].detach().numpy(), student.numpy())
    mean, variance = mixed.mean((0, 2, 3), keepdims=True), mixed.var((0, 2, 3), keepdims=True)
    mapped = np.maximum((mixed - mean) / np.sqrt(variance + 1e-5), 0).mean((2, 3))
    layer = method.classifier[0]
    predicted = mapped @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    assert terms["feature"].item() == pytest.approx(3 * np.mean((mapped - vectors.numpy()) ** 2), rel=1e-9)
    assert terms["regression"].item() == pytest.approx(2 * np.mean((predicted - logits.numpy()) ** 2), rel=1e-9)


def test_the_teachers_classifier_is_no_part_of_the_method() -> None:
    method = connected(4, 5)
    assert not {id(weight) for weight in method.classifier[0].parameters()} & set(map(id, method.parameters()))


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    check_finite(srrl, 4, 3, 2, 2)
