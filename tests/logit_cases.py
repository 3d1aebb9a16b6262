"""Logits with the losses and gradients that public implementations of the papers give for them, in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdrun.methods.base import HardAndSoft, Terms
from kdrun.train.stage import Batch

TABLE: dict[str, Any] = json.loads((Path(__file__).parent / "methods" / "logit_cases.json").read_text("utf-8"))
STUDENT = torch.tensor(TABLE["student"], dtype=torch.float64)
TEACHER = torch.tensor(TABLE["teacher"], dtype=torch.float64)
LABELS = torch.tensor(TABLE["labels"])


def cases(method: str) -> list[Any]:
    """The cases of a method, as parameters of a test."""
    return [pytest.param(case, id=name) for name, case in TABLE["cases"][method].items()]


def batch(labels: Tensor = LABELS, epoch: int = 1000) -> Batch:
    """A batch of these labels, in an epoch after all warm-ups."""
    places = torch.arange(len(labels))
    return Batch(torch.zeros(len(labels), 1), labels, places, torch.zeros_like(places), epoch)


def summed(terms: Terms) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def soft_of(method: HardAndSoft, epoch: int = 1000) -> Callable[[Tensor], Tensor]:
    """The soft part of a method on the table's teacher and labels, as a function of the student's logits."""
    return lambda student: summed(method.soft(student, TEACHER, batch(epoch=epoch)))


def value_and_gradient(loss: Callable[[Tensor], Tensor], student: Tensor = STUDENT) -> tuple[float, Tensor]:
    student = student.clone().requires_grad_()
    value = loss(student)
    (gradient,) = torch.autograd.grad(value, student)
    return float(value.detach()), gradient


def check(loss: Callable[[Tensor], Tensor], case: dict[str, Any]) -> None:
    """Compares a loss of the student's logits, and its gradient, with what a case has."""
    value, gradient = value_and_gradient(loss)
    assert value == pytest.approx(case["loss"], rel=1e-6, abs=1e-9)
    expected = torch.tensor(case["gradients"]["student"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)


def by_rows(formula: Callable[[list[float], list[float], int], Any], student: Tensor = STUDENT) -> Tensor:
    """The mean over the samples of a formula that is written for one: lists of logits, and the label."""
    rows = zip(student, TEACHER, LABELS.tolist(), strict=True)
    return torch.stack([formula(*row) for row in rows]).mean()
