"""A temperature for each sample: as large as its logits are spread."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Positive, Weight
from kdrun.methods.base import Batch, LogitMethod, Terms

LEAST = 1e-4
"""Least standard deviation: constant logits have none, and no temperature would spread them."""


class NormKD(LogitMethod):
    """ce_weight CE(labels, student) + kd_weight mean T_t^2 KL(teacher / T_t || student / T_s), a mean over samples.

    Chi et al. 2023, arXiv:2308.00520, "NormKD: normalized logits for knowledge distillation": the temperatures T_t and
    T_s of a sample are ``spread`` times the standard deviations of its logits in the teacher and in the student, with
    classes - 1 in the denominator. The student's temperature depends on its weights and has a gradient, as in the
    authors' code. The softmax does not see the mean, so it is left in.
    """

    ce_weight: Weight = 0.1
    """Weight of the cross-entropy with the labels."""
    kd_weight: Weight = 0.9
    """Weight of the soft targets."""
    spread: Positive = 2.0
    """Temperature per standard deviation, their T_norm."""

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        own, other = (self.spread * logits.std(1, keepdim=True).clamp(min=LEAST) for logits in (student, teacher))
        log_student, log_teacher = F.log_softmax(student / own, 1), F.log_softmax(teacher / other, 1)
        distance = (log_teacher.exp() * (log_teacher - log_student)).sum(1)
        return {"kd": self.kd_weight * (other[:, 0] ** 2 * distance).mean()}
