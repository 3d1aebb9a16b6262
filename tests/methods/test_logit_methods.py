"""What holds for every method whose loss has a hard and a soft part."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from logit_cases import STUDENT, TEACHER, batch, summed
from tiny import COMPOSER

from kdrun.config.build import Builder
from kdrun.methods.base import HardAndSoft, LogitMethod, Outputs, warmup

NODES = {name: COMPOSER.compose([f"method={name}"])["method"] for name in COMPOSER.options.names("method")}


def is_split(name: str) -> bool:
    target = Builder().target(NODES[name], "method")
    return inspect.isclass(target) and issubclass(target, HardAndSoft)


METHODS = [name for name in NODES if is_split(name)]

BUILDER = cast(Any, SimpleNamespace(method=lambda node: Builder().build(node, where="method")))
"""As much of an experiment as such a method asks for."""


def built(name: str) -> HardAndSoft:
    method = cast(HardAndSoft, BUILDER.method(NODES[name]))
    method.setup(BUILDER)
    method.connect([], [])
    return method


ROW = [1e4, -1e4, 0.0, 3.0]
EXTREMES: dict[str, tuple[list[list[float]], list[list[float]]]] = {
    "far apart": ([ROW, ROW[::-1]], [ROW[::-1], ROW]),
    "certain and wrong": ([[200.0, 0.0, 0.0, 0.0]] * 2, [[0.0, 200.0, 0.0, 0.0]] * 2),
    "certain and right": ([[0.0, 0.0, 200.0, 0.0]] * 2, [[0.0, 0.0, 200.0, 0.0]] * 2),
    "a gap of 2000": ([[2000.0, 0.0, 0.0, 0.0]] * 2, [[1.0, 0.0, 2.0, 3.0]] * 2),
    "equal": ([[1.0, 2.0, 3.0, 4.0]] * 2, [[1.0, 2.0, 3.0, 4.0]] * 2),
    "constant": ([[5.0] * 4, [0.0] * 4], [[0.0] * 4, [7.0] * 4]),
    "one sample": ([[1.0, -2.0, 0.5, 0.0]], [[0.0, 1.0, 2.0, -1.0]]),
    "two classes": ([[1.0, -2.0], [3.0, 0.0]], [[0.0, 1.0], [-2.0, 2.0]]),
}


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize("name", METHODS)
def test_no_logits_make_a_loss_or_gradient_that_is_not_finite(name: str, extreme: str) -> None:
    rows, teacher = (torch.tensor(logits) for logits in EXTREMES[extreme])
    method = built(name)
    for label in range(rows.shape[1]):
        student = rows.clone().requires_grad_()
        labels = torch.full((len(rows),), label)
        loss = summed(method.loss(Outputs(student, []), Outputs(teacher, []), batch(labels)))
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_the_hard_part_and_the_soft_part(name: str) -> None:
    method = built(name)
    hard, soft = method.hard(STUDENT, TEACHER, batch()), method.soft(STUDENT, TEACHER, batch())
    whole = method.loss(Outputs(STUDENT, []), Outputs(TEACHER, []), batch())
    assert not hard.keys() & soft.keys()
    assert {**hard, **soft} == whole


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_samples_and_of_classes_does_not_matter(name: str) -> None:
    method, rows, columns = built(name), [3, 1, 4, 0, 2], [6, 2, 0, 5, 1, 4, 3]
    before = batch()
    after = batch(torch.tensor([columns.index(int(label)) for label in before.targets[rows]]))
    one = summed(method.loss(Outputs(STUDENT, []), Outputs(TEACHER, []), before))
    other = [Outputs(logits[rows][:, columns], []) for logits in (STUDENT, TEACHER)]
    torch.testing.assert_close(summed(method.loss(*other, after)), one)


def test_a_method_without_its_parts_says_so() -> None:
    class Half(LogitMethod):
        pass

    class Neither(HardAndSoft):
        pass

    with pytest.raises(TypeError, match=r"^Half does not define soft$"):
        Half().soft(STUDENT, TEACHER, batch())
    with pytest.raises(TypeError, match=r"^Neither does not define hard$"):
        Neither().hard(STUDENT, TEACHER, batch())


def test_a_warm_up_rises_evenly_from_the_first_epoch_to_one() -> None:
    assert [warmup(epoch, 4) for epoch in range(1, 7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warmup(1, 0) == 1.0
