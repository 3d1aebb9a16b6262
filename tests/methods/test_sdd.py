from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from logit_cases import batch
from tiny import COMPOSER, config, experiment
from torch import Tensor, nn

from kdrun.config.build import Builder
from kdrun.errors import ConfigError
from kdrun.methods.base import Outputs
from kdrun.methods.kd import KD, soft_loss
from kdrun.methods.sdd import SDD
from kdrun.methods.wrapper import with_soft_part

BUILDER = cast(Any, SimpleNamespace(method=lambda node: Builder().build(node, where="method")))
LABELS = torch.tensor([0, 3, 1])


def connected(base: str, scales: list[int], student: nn.Linear, teacher: nn.Linear) -> SDD:
    method = SDD(COMPOSER.compose([f"method={base}"])["method"], scales)
    method.inner = with_soft_part(BUILDER, method.base)
    method.student_tap, method.teacher_tap, method.classifiers = 0, 0, (student, teacher)
    return method


def nets() -> tuple[nn.Linear, nn.Linear, Tensor, Tensor]:
    """Classifiers of student and teacher, and their last maps."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(3, width, 4, 4, generator=generator, dtype=torch.float64) for width in (5, 6)]
    layers = [nn.Linear(width, 7, dtype=torch.float64) for width in (5, 6)]
    for parameter in (parameter for layer in layers for parameter in layer.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return layers[0], layers[1], maps[0], maps[1]


def by_hand(scales: list[int]) -> tuple[float, int]:
    """T^2 KL of every cell by its pixels, and the number of cells that count twice."""
    own, other, student, teacher = nets()
    total, twice, count = 0.0, 0, 0
    for sample, label in enumerate(LABELS.tolist()):
        knows = int(other(teacher[sample].mean((1, 2))).argmax()) == label
        for scale in scales:
            side = 4 // scale
            for row in range(scale):
                for column in range(scale):
                    place = slice(row * side, row * side + side), slice(column * side, column * side + side)
                    z, v = (
                        layer(maps[sample][:, place[0], place[1]].mean((1, 2)))[None]
                        for layer, maps in ((own, student), (other, teacher))
                    )
                    differs = (int(v.argmax()) == label) != knows
                    total += float((1 + differs) * 16 * soft_loss(z, v, 4.0))
                    twice, count = twice + differs, count + 1
    return total / count, twice


@torch.no_grad()
@pytest.mark.parametrize("scales", [[1], [1, 2], [1, 2, 4]])
def test_the_loss_is_the_formula_cell_by_cell(scales: list[int]) -> None:
    own, other, student, teacher = nets()
    outputs = (Outputs(own(student.mean((2, 3))), [student]), Outputs(other(teacher.mean((2, 3))), [teacher]))
    terms = connected("kd_soft", scales, own, other).loss(*outputs, batch(LABELS))
    expected, twice = by_hand(scales)
    assert float(terms["kd"]) == pytest.approx(expected)
    assert twice > 0 or scales == [1]


@pytest.mark.parametrize("base", ["kd", "dkd", "nkd", "logit_std"])
def test_at_scale_1_alone_it_is_its_base(base: str) -> None:
    own, other, student, teacher = nets()
    outputs = (Outputs(own(student.mean((2, 3))), [student]), Outputs(other(teacher.mean((2, 3))), [teacher]))
    method = connected(base, [1], own, other)
    if base == "logit_std":
        method.inner.setup(BUILDER)
    plain = method.inner.loss(*outputs, batch(LABELS))
    terms = method.loss(*outputs, batch(LABELS))
    assert terms.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(terms[name], value)


def test_the_cross_entropy_is_of_the_whole_image() -> None:
    own, other, student, teacher = nets()
    outputs = (Outputs(own(student.mean((2, 3))), [student]), Outputs(other(teacher.mean((2, 3))), [teacher]))
    terms = connected("kd", [1, 2], own, other).loss(*outputs, batch(LABELS))
    assert torch.equal(terms["ce"], KD().loss(*outputs, batch(LABELS))["ce"])


RESNETS = ("teacher=resnet8", "student=resnet8", "method=sdd")


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("method.scales=[1,4]", r"method\.scales: 4 cells along a side do not fit the student's last map of 3x3"),
        ("method.scales=[]", r"method\.scales: there are none"),
        ("method.base=fitnets", r"method\.base: fitnets has no soft part"),
        ("student=mlp_16", r"student: "),
    ],
)
def test_what_does_not_fit_is_refused(word: str, why: str, tmp_path: Path) -> None:
    words = [each for each in RESNETS if each.partition("=")[0] != word.partition("=")[0]]
    exp = experiment(tmp_path, *[each for each in words if "method" not in each], *["method=kd"] * ("student" in word))
    with pytest.raises(ConfigError, match=rf"^{why}"):
        next(exp.method(config(tmp_path, *words, word)["method"]).stages(exp))
