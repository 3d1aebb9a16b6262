"""Attention-based feature distillation."""

from __future__ import annotations

import torch
from oracle import case, check_finite
from torch import Tensor

from kdrun.methods.afd import Attention, spatial, weighted_distance

NAMES = {
    "attention.p_t": "teacher_place",
    "attention.p_s": "student_place",
    "attention.linear_trans_s.key_layer": "keys",
    "attention.linear_trans_t.query_layer": "queries",
    "attention.linear_trans_s.bilinear": "bilinear",
}


def test_value_and_gradient_are_those_of_the_paper() -> None:
    example = case("afd")
    student, teacher = ([example.inputs[f"{role}{number}"] for number in (1, 2)] for role in "st")
    attention = Attention([3, 4], [4, 6], 3).double()
    weights = {}
    for name, value in example.weights.items():
        prefix = next(each for each in NAMES if name.startswith(each))
        weights[NAMES[prefix] + name.removeprefix(prefix)] = value
    attention.load_state_dict({**attention.state_dict(), **weights})
    example.check(weighted_distance(student, teacher, attention(student, teacher)))


def test_the_attention_of_a_teachers_block_sums_to_one() -> None:
    attention = Attention([3, 4, 5], [6, 7], 8)
    student = [torch.randn(5, channels, 2, 2) for channels in (3, 4, 5)]
    teacher = [torch.randn(5, channels, 2, 2) for channels in (6, 7)]
    shares = attention(student, teacher)
    assert shares.shape == (5, 2, 3)
    torch.testing.assert_close(shares.sum(2), torch.ones(5, 2))


def test_a_spatial_map_has_the_teachers_size_and_norm_one() -> None:
    maps = spatial(torch.randn(3, 4, 8, 8), torch.Size((4, 4)))
    assert maps.shape == (3, 16)
    torch.testing.assert_close(maps.norm(dim=1), torch.ones(3))


def test_extreme_maps_have_finite_values_and_gradients() -> None:
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        torch.manual_seed(0)
        attention = Attention([3, 3], [3, 3], 4)
        if len(student) == 1:
            attention.keys.eval(), attention.queries.eval()  # batch normalization cannot train on one sample
        pair = [student, student], [teacher, teacher]
        return weighted_distance(*pair, attention(*pair))

    check_finite(loss, 4, 3, 2, 2)
