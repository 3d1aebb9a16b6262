"""Cases of the literature's losses: inputs, arguments, learned weights, and the values and gradients to expect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdrun.train.stage import Batch, Outputs

FOLDER = Path(__file__).parent / "methods" / "cases"


@dataclass
class Case:
    """One case; its tensors are float64, and its inputs take gradients."""

    name: str
    inputs: dict[str, Tensor]
    weights: dict[str, Tensor]
    arguments: dict[str, Any]
    expected: dict[str, Any]
    tolerance: dict[str, float]

    def check(self, loss: Tensor, times: float = 1.0) -> None:
        """Compares ``loss`` and the gradients of all inputs that have one with the expected ones, times a factor."""
        assert loss.dtype == torch.float64
        self.close(loss / times, self.expected["loss"])
        gradients = self.expected["grad"]
        actual = torch.autograd.grad(loss / times, [self.inputs[name] for name in gradients])
        for tensor, name in zip(actual, gradients, strict=True):
            self.close(tensor, gradients[name])

    def close(self, actual: Tensor, expected: Any) -> None:
        torch.testing.assert_close(actual.detach(), torch.tensor(expected, dtype=torch.float64), **self.tolerance)


def case(method: str, name: str | int = 0) -> Case:
    """The case of a method by its number or name."""
    cases = json.loads((FOLDER / f"{method}.json").read_text())["cases"]
    read = cases[name] if isinstance(name, int) else next(each for each in cases if each["case"] == name)
    inputs = {key: tensor(value) for key, value in read["inputs"].items()}
    weights = {key: tensor(value).detach() for key, value in read.get("weights", {}).items()}
    tolerance = {key: float(value) for key, value in read["tolerance"].items()}
    return Case(read["case"], inputs, weights, read["arguments"], read["expected"], tolerance)


def tensor(value: Any) -> Tensor:
    if torch.tensor(value).is_floating_point():
        return torch.tensor(value, dtype=torch.float64).requires_grad_()
    return torch.tensor(value)


def outputs(*features: Tensor, logits: Tensor | None = None) -> Outputs:
    """Outputs of a model; logits of 4 classes, from a fixed seed, if None."""
    normal = torch.randn(len(features[0]), 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Outputs(normal if logits is None else logits, list(features))


def batch(size: int, epoch: int = 1, first: int = 0) -> Batch:
    """A batch without images; its targets are of 4 classes."""
    index = torch.arange(first, first + size)
    return Batch(torch.zeros(size, 1, 1, 1), index % 4, index, torch.zeros_like(index), epoch)


def shapes(*features: Tensor) -> list[torch.Size]:
    """Shapes of features as ``connect`` gets them."""
    return [torch.Size((1, *feature.shape[1:])) for feature in features]


def extremes(*shape: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Student's and teacher's features at the ends: equal, constant, zero, large, one of them dead."""
    normal = torch.randn(*shape, generator=torch.Generator().manual_seed(3))
    other = torch.randn(*shape, generator=torch.Generator().manual_seed(4))
    zero, one = torch.zeros(shape), torch.ones(shape)
    yield from (("equal", normal, normal.clone()), ("both constant", one, one), ("both zero", zero, zero))
    yield from (("dead student", zero, normal), ("constant student", one, normal), ("dead teacher", normal, zero))
    yield from (("large", 1e4 * normal, 1e4 * other), ("small", 1e-6 * normal, 1e-6 * other))
    yield "one sample", normal[:1], other[:1]


def check_finite(loss: Callable[[Tensor, Tensor], Tensor], *shape: int, skip: tuple[str, ...] = ()) -> None:
    """Checks that a loss and its gradient in the student are finite at the extremes."""
    for name, student, teacher in extremes(*shape):
        if name not in skip:
            own = student.clone().requires_grad_()
            value = loss(own, teacher)
            (gradient,) = torch.autograd.grad(value, own)
            assert torch.isfinite(value), name
            assert torch.isfinite(gradient).all(), name
