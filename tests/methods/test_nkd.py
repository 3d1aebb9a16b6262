from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from logit_cases import LABELS, STUDENT, TEACHER, batch, cases, check, soft_of, value_and_gradient

from kdrun.methods.nkd import NKD


@pytest.mark.parametrize("case", cases("nkd"))
def test_the_loss_and_its_gradient_are_the_published_ones(case: dict[str, Any]) -> None:
    check(soft_of(NKD(non_target_weight=case["arguments"]["gamma"], temperature=float(case["arguments"]["T"]))), case)


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(z) for z in row]
    return [power / sum(powers) for power in powers]


def test_the_label_is_in_no_sum_over_the_others() -> None:
    expected = 0.0
    for z, v, label in zip(STUDENT.tolist(), TEACHER.tolist(), LABELS.tolist(), strict=True):
        others = [k for k in range(7) if k != label]
        s, t = (softmax([row[k] / 3 for k in others]) for row in (z, v))
        expected -= 2 * 9 * sum(a * math.log(b) for a, b in zip(t, s, strict=True)) / 5
        expected -= 0.5 * softmax(v)[label] * math.log(softmax(z)[label]) / 5
    method = NKD(target_weight=0.5, non_target_weight=2.0)
    assert value_and_gradient(soft_of(method))[0] == pytest.approx(expected)


def test_equal_logits_leave_only_the_pull_on_the_right_class() -> None:
    student = TEACHER.clone().requires_grad_()
    terms = NKD().soft(student, TEACHER, batch())
    assert torch.autograd.grad(terms["non_target"], student, retain_graph=True)[0].abs().max() < 1e-12
    assert (torch.autograd.grad(terms["target"], student)[0].gather(1, LABELS[:, None]) < 0).all()
