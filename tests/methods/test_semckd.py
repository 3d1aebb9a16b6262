"""SemCKD."""

from __future__ import annotations

import torch
from oracle import batch, case, check_finite, outputs, shapes
from torch import Tensor

from kdrun.methods.semckd import SemCKD


def connected(student: list[Tensor], teacher: list[Tensor], factor: int = 2) -> SemCKD:
    torch.manual_seed(0)
    method = SemCKD(factor=factor)
    method.size = len(student[0])
    method.connect(shapes(*student), shapes(*teacher))
    return method.type(student[0].dtype)  # type: ignore[arg-type]


def test_value_gradient_and_attention_are_those_of_the_paper() -> None:
    example = case("semckd")
    student, teacher = ([example.inputs[f"{role}{number}"] for number in (1, 2)] for role in "st")
    method, weights = connected(student, teacher), {}
    for name, value in example.weights.items():
        part, _, rest = name.partition(".")
        if part.startswith("regressor"):
            weights[f"projections.{part[9]}.{part[10]}.{rest.removeprefix('regressor.')}"] = value
        else:
            role, _, number = part.partition("_")
            weights[f"{'queries' if role == 'query' else 'keys'}.{number}.{rest}"] = value
    method.load_state_dict({**method.state_dict(), **weights})
    example.close(method.attention(student, teacher), example.expected["attention"])
    example.check(method.loss(outputs(*student), outputs(*teacher), batch(4))["semckd"], times=400)


def test_a_batch_of_another_size_has_the_usual_terms_alone() -> None:
    maps = [torch.randn(4, 3, 4, 4)]
    method = connected(maps, maps)
    short = [maps[0][:3]]
    assert set(method.loss(outputs(*short), outputs(*short), batch(3))) == {"ce", "kd"}
    assert set(method.loss(outputs(*maps), outputs(*maps), batch(4))) == {"ce", "kd", "semckd"}


def test_every_weight_learns() -> None:
    student, teacher = (
        [torch.randn(4, 3, 4, 4), torch.randn(4, 4, 2, 2)],
        [torch.randn(4, 5, 4, 4), torch.randn(4, 6, 2, 2)],
    )
    method = connected(student, teacher)
    method.loss(outputs(*student), outputs(*teacher), batch(4))["semckd"].backward()
    assert [name for name, weight in method.named_parameters() if weight.grad is None] == []


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        method = connected([student, student], [teacher, teacher], factor=1)
        pair = outputs(student, student), outputs(teacher, teacher)
        return method.loss(*pair, batch(len(student)))["semckd"]

    check_finite(loss, 4, 3, 2, 2)
