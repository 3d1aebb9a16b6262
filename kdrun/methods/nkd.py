"""Soft cross-entropy taken apart at the right class, the rest made a distribution of its own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Temperature, Weight
from kdrun.methods.base import Batch, LogitMethod, Terms
from kdrun.methods.dkd import without


class NKD(LogitMethod):
    """ce_weight CE(labels, student) + target_weight TARGET + non_target_weight T^2 REST.

    Yang et al. 2023, arXiv:2303.13005: "normalized knowledge distillation". With y the label, s and t the
    softmaxes of student and teacher, and a hat for a softmax of logits / T without y, means over the batch of
        TARGET = -t_y log s_y, both at T = 1,
        REST = -sum_k hat t_k log hat s_k.
    These are cross-entropies, not divergences: at equal logits they are the teacher's entropy, with a gradient of 0 for
    REST, but not for TARGET, which as the plain cross-entropy does pulls s_y up to 1.
    """

    target_weight: Weight = 1.0
    """Weight of TARGET; 1 in the paper."""
    non_target_weight: Weight = 3.5
    """Weight of REST, their gamma."""
    temperature: Temperature = 3.0
    """Temperature T of REST."""

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        label = batch.targets[:, None]
        target = F.softmax(teacher, 1).gather(1, label) * F.log_softmax(student, 1).gather(1, label)
        own, other = (without(logits / self.temperature, batch.targets) for logits in (student, teacher))
        rest = (F.softmax(other, 1) * F.log_softmax(own, 1)).sum(1)
        weight = self.non_target_weight * self.temperature**2
        return {"target": -self.target_weight * target.mean(), "non_target": -weight * rest.mean()}
