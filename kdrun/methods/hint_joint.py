"""A hint beside the labels: the student's map learns from the teacher's while the student learns to classify."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from kdrun.errors import ConfigError
from kdrun.methods.arguments import Tap, Weight
from kdrun.methods.base import Batch, Method, Outputs, Terms, choose


class HintJoint(Method):
    """ce_weight CE(labels, student) + hint_weight mean squared error (regressor(student's map), teacher's map).

    PyTorch's tutorial "Knowledge Distillation", section "Intermediate regressor run": FitNets has a stage for the hint;
    here the hint is one term of a single stage. The regressor goes from the student's channels to the teacher's; it
    is trained with the student and then discarded. ``connector=conv3`` is the tutorial's, a 3x3 convolution between
    maps of one size. ``connector=bn_relu`` is that of the CRD benchmark (Tian et al. 2020, arXiv:1910.10699): a
    convolution that also changes the size, batch normalization, ReLU.
    """

    reads: ClassVar = frozenset({"logits", "features"})

    ce_weight: Weight = 0.75
    """Weight of the cross-entropy with the labels."""
    hint_weight: Weight = 0.25
    """Weight of the mean squared error between the maps."""
    hint: Tap | None = None
    """Index of the teacher's tap that is the hint, from 0; the middle tap if None."""
    guided: Tap | None = None
    """Index of the student's tap that learns from the hint, from 0; the middle tap if None."""
    connector: Literal["conv3", "bn_relu"] = "conv3"
    """Regressor between the two maps."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.teacher_tap = choose("hint", self.hint, teacher, "teacher")
        self.student_tap = choose("guided", self.guided, student, "student")
        guided, hint = student[self.student_tap], teacher[self.teacher_tap]
        if not fits(guided, hint, self.connector):
            sizes = " and the teacher's ".join("x".join(map(str, shape[1:])) for shape in (guided, hint))
            kind = "maps of one size" if self.connector == "conv3" else "maps whose sizes a convolution can match"
            raise ConfigError("method.guided", f"the student's {sizes} are not {kind}; choose other taps")
        self.regressor = (
            nn.Conv2d(guided[1], hint[1], 3, padding=1) if self.connector == "conv3" else bn_relu(guided, hint)
        )

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        mapped = self.regressor(student.features[self.student_tap])
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "hint": self.hint_weight * F.mse_loss(mapped, teacher.features[self.teacher_tap]),
        }


def fits(guided: torch.Size, hint: torch.Size, connector: str) -> bool:
    """Returns whether the connector leads from a student's map of shape ``guided`` to ``hint``."""
    if len(guided) != 4 or len(hint) != 4:
        return False
    if connector == "conv3" or guided[2:] == hint[2:]:
        return guided[2:] == hint[2:]
    halved = [2 * side for side in guided[2:]] == list(hint[2:])
    return halved or all(own > theirs for own, theirs in zip(guided[2:], hint[2:], strict=True))


def bn_relu(guided: torch.Size, hint: torch.Size) -> nn.Sequential:
    """Returns the connector of the CRD benchmark between two maps: a convolution, batch normalization, ReLU.

    The kernel is 1x1 between equal sizes, 3x3 with stride 2 from a size to its half, 4x4 transposed with stride 2 to
    its double, and else as large as the difference needs.
    """
    channels, own, theirs = (guided[1], hint[1]), list(guided[2:]), list(hint[2:])
    if [2 * side for side in own] == theirs:
        layer: nn.Module = nn.ConvTranspose2d(*channels, 4, 2, padding=1)
    elif own == [2 * side for side in theirs]:
        layer = nn.Conv2d(*channels, 3, 2, padding=1)
    else:
        layer = nn.Conv2d(*channels, (1 + own[0] - theirs[0], 1 + own[1] - theirs[1]))
    return nn.Sequential(layer, nn.BatchNorm2d(hint[1]), nn.ReLU())
