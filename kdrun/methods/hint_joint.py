"""A hint beside the labels: the student's map learns from the teacher's while the student learns to classify."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from kdrun.errors import ConfigError
from kdrun.methods.arguments import Tap, Weight
from kdrun.methods.base import Batch, Method, Outputs, Terms, choose


class HintJoint(Method):
    """ce_weight CE(labels, student) + hint_weight mean squared error (regressor(student's map), teacher's map).

    PyTorch's tutorial "Knowledge Distillation", section "Intermediate regressor run": FitNets has a stage for the hint;
    here the hint is one term of a single stage. The regressor is a 3x3 convolution from the student's channels to the
    teacher's, trained with the student and then discarded.
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

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.teacher_tap = choose("hint", self.hint, teacher, "teacher")
        self.student_tap = choose("guided", self.guided, student, "student")
        guided, hint = student[self.student_tap], teacher[self.teacher_tap]
        if len(guided) != 4 or guided[2:] != hint[2:]:
            sizes = " and the teacher's ".join("x".join(map(str, shape[1:])) for shape in (guided, hint))
            raise ConfigError("method.guided", f"the student's {sizes} are not maps of one size; choose other taps")
        self.regressor = nn.Conv2d(guided[1], hint[1], 3, padding=1)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        mapped = self.regressor(student.features[self.student_tap])
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "hint": self.hint_weight * F.mse_loss(mapped, teacher.features[self.teacher_tap]),
        }
