from __future__ import annotations

from typing import Any

import pytest
import torch
from logit_cases import LABELS, STUDENT, batch, cases, check, summed, value_and_gradient
from torch import Tensor

from kdrun.methods.base import Outputs, Teacherless
from kdrun.methods.scratch import Scratch
from kdrun.methods.tfkd import VirtualTeacher


def loss_of(method: Teacherless, student: Tensor) -> Tensor:
    return summed(method.loss(Outputs(student, []), batch()))


@pytest.mark.parametrize("case", cases("label_smoothing"))
def test_without_the_right_class_it_is_a_larger_part_of_all(case: dict[str, Any]) -> None:
    classes = STUDENT.shape[1]
    method = Scratch(label_smoothing=case["arguments"]["alpha"] * classes / (classes - 1))
    check(lambda student: loss_of(method, student), case)


def test_each_class_gets_an_even_share_of_it() -> None:
    share = torch.full_like(STUDENT, 0.1 / 7)
    targets = share.scatter_add(1, LABELS[:, None], torch.full((5, 1), 0.9, dtype=torch.float64))
    expected = -(targets * (STUDENT - STUDENT.exp().sum(1, keepdim=True).log())).sum() / 5
    assert value_and_gradient(lambda z: loss_of(Scratch(label_smoothing=0.1), z))[0] == pytest.approx(float(expected))


def test_a_virtual_teacher_at_temperature_1_has_its_gradient() -> None:
    virtual = VirtualTeacher(ce_weight=0.0, kd_weight=1.0, temperature=1.0, confidence=0.9 + 0.1 / 7)
    own = value_and_gradient(lambda student: loss_of(Scratch(label_smoothing=0.1), student))[1]
    other = value_and_gradient(lambda student: loss_of(virtual, student))[1]
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-8)
