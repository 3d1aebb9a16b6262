"""A temperature for the teacher alone: its transformed probabilities meet the student's own."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Weight
from kdrun.methods.base import Batch, LogitMethod, Terms


class TTM(LogitMethod):
    """ce_weight CE(labels, student) + kd_weight mean u KL(q || student), q the teacher's p^exponent, made to sum to 1.

    Zheng and Yang 2024, arXiv:2402.11148, "Knowledge distillation based on transformed teacher matching": q is the
    softmax of exponent times the teacher's logits, a temperature of 1 / exponent; the student has none, which is KD
    with a term more, Renyi's entropy of the student. ``weighted`` is their WTTM: each sample counts by u, the sum of
    the teacher's p^exponent over the classes, which is large where the teacher is not sure; otherwise u is 1. There is
    no factor T^2: ``kd_weight`` is theirs.
    """

    kd_weight: Weight = 45.0
    """Weight of the divergence, their beta."""
    exponent: Annotated[float, "(0, 1]"] = 0.1
    """Power of the teacher's probabilities, their gamma."""
    weighted: bool = False
    """Whether samples count by the sum of the teacher's powers."""

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        powers = self.exponent * F.log_softmax(teacher, 1)
        log_teacher = F.log_softmax(powers, 1)
        distance = (log_teacher.exp() * (log_teacher - F.log_softmax(student, 1))).sum(1)
        if self.weighted:
            distance = powers.exp().sum(1) * distance
        return {"kd": self.kd_weight * distance.mean()}
