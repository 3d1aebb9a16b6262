"""A hint beside the labels: the student's map is led to the teacher's while it learns to classify."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Method, Outputs, Terms
from kdrun.methods.fitnets import choose


class HintJoint(Method):
    """ce_weight CE(labels, student) + hint_weight mean squared error (regressor(student's map), teacher's map).

    PyTorch's tutorial "Knowledge Distillation", section "Intermediate regressor run": where FitNets has a stage for the
    hint, here it is one term of a single stage. The regressor is a 3x3 convolution from the student's channels to
    the teacher's, trained with the student and thrown away.

    Args:
        ce_weight: of the cross-entropy with the labels.
        hint_weight: of the mean squared error.
        hint: which of the teacher's taps is the hint, from 0; the middle one where None.
        guided: which of the student's taps is led to it, from 0; the middle one where None.
    """

    def __init__(
        self,
        ce_weight: Annotated[float, "[0, inf)"] = 0.75,
        hint_weight: Annotated[float, "[0, inf)"] = 0.25,
        hint: Annotated[int, "[0, inf)"] | None = None,
        guided: Annotated[int, "[0, inf)"] | None = None,
    ) -> None:
        super().__init__()
        self.ce_weight, self.hint_weight = ce_weight, hint_weight
        self.hint, self.guided = hint, guided

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.hint = choose("hint", self.hint, teacher, "teacher")
        self.guided = choose("guided", self.guided, student, "student")
        guided, hint = student[self.guided], teacher[self.hint]
        if len(guided) != 4 or guided[2:] != hint[2:]:
            sizes = " and the teacher's ".join("x".join(map(str, shape[1:])) for shape in (guided, hint))
            raise ConfigError("method.guided", f"the student's {sizes} are not maps of one size; choose other taps")
        self.regressor = nn.Conv2d(guided[1], hint[1], 3, padding=1)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        assert teacher is not None and self.hint is not None and self.guided is not None
        guess = self.regressor(student.features[self.guided])
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "hint": self.hint_weight * F.mse_loss(guess, teacher.features[self.hint]),
        }
