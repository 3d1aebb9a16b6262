from __future__ import annotations

import pytest
import torch
from logit_cases import LABELS, STUDENT, TEACHER, batch, soft_of, summed, value_and_gradient
from torch import Tensor

from kdrun.methods.rld import RLD


def softmax(row: list[Tensor]) -> list[Tensor]:
    powers = [z.exp() for z in row]
    return [power / sum(powers) for power in powers]


def divergence(p: list[Tensor], q: list[Tensor]) -> Tensor:
    return sum((a * (a / b).log() for a, b in zip(p, q, strict=True)), torch.zeros(()))


def by_hand(student: Tensor, confidence_temperature: float, temperature: float) -> tuple[Tensor, Tensor]:
    """SCD and MCD, sample by sample, over lists of numbers."""
    scd, mcd = torch.zeros(()), torch.zeros(())
    for z, v, y in zip(student, TEACHER, LABELS.tolist(), strict=True):
        own, most = softmax(list(z / confidence_temperature))[y], max(softmax(list(v / confidence_temperature)))
        scd = scd + divergence([most, 1 - most], [own, 1 - own]) / 5
        below = [k for k in range(7) if v[k] < v[y]]
        if below:
            p, q = (softmax([row[k] / temperature for k in below]) for row in (v, z))
            mcd = mcd + divergence(p, q) / 5
    return scd, mcd


@pytest.mark.parametrize(("sure", "temperature"), [(1.0, 4.0), (2.0, 1.0)])
def test_value_and_gradient_are_those_of_the_formula(sure: float, temperature: float) -> None:
    def formula(student: Tensor) -> Tensor:
        scd, mcd = by_hand(student, sure, temperature)
        return 3 * sure**2 * scd + 2 * temperature**2 * mcd

    method = RLD(confidence_weight=3.0, correlation_weight=2.0, confidence_temperature=sure, temperature=temperature)
    value, gradient = value_and_gradient(soft_of(method))
    expected, slope = value_and_gradient(formula)
    assert value == pytest.approx(expected)
    torch.testing.assert_close(gradient, slope)


def test_a_label_that_the_teacher_ranks_last_leaves_no_correlation() -> None:
    student = STUDENT.clone().requires_grad_()
    term = RLD().soft(student, TEACHER, batch(TEACHER.argmin(1)))["correlation"]
    assert float(term.detach()) == 0
    assert not torch.autograd.grad(term, student)[0].any()


def test_classes_above_the_label_are_left_out() -> None:
    above = TEACHER.gather(1, LABELS[:, None]) < TEACHER
    changed = STUDENT + 5 * above
    terms = [RLD().soft(student, TEACHER, batch())["correlation"] for student in (STUDENT, changed)]
    torch.testing.assert_close(*terms)
    assert above.any()


def test_the_teachers_certainty_is_of_its_own_first_class() -> None:
    teacher, student = torch.tensor([[3.0, 0.0]]).double(), torch.tensor([[0.0, 3.0]]).double()
    term = RLD().soft(student, teacher, batch(torch.tensor([1])))["confidence"]
    assert float(term) == pytest.approx(0, abs=1e-12)


def test_both_weights_rise_over_the_warm_up() -> None:
    value = value_and_gradient(soft_of(RLD()))[0]
    assert value_and_gradient(soft_of(RLD(), epoch=5))[0] == pytest.approx(value / 4)
    assert value == pytest.approx(float(summed(RLD(warmup_epochs=0).soft(STUDENT, TEACHER, batch(epoch=1)))))
