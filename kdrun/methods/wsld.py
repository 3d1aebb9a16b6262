"""Soft labels weighted by sample: less where the student has learned the label as well as its teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Temperature, Weight
from kdrun.methods.base import Batch, LogitMethod, Terms

TINY = 1e-7
"""Added to the teacher's cross-entropy, as in the authors' code."""


class WSLD(LogitMethod):
    """ce_weight CE(labels, student) + kd_weight T^2 mean w H(teacher, student), H softened by T.

    Zhou et al. 2021, arXiv:2102.00650, "Rethinking soft labels for knowledge distillation: a bias-variance tradeoff
    perspective": w = 1 - exp(-CE(label, student) / CE(label, teacher)) of the sample, at T = 1 and without a gradient.
    It is 0 for a student that is sure of the label, near 1 where the teacher knows better. H is a cross-entropy, as in
    their code; the divergence has the same gradient.
    """

    kd_weight: Weight = 2.25
    """Weight of the soft labels, their alpha; 2.5 on ImageNet."""
    temperature: Temperature = 4.0
    """Temperature T of the soft labels; 2 on ImageNet."""

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        with torch.no_grad():
            own, other = (F.cross_entropy(logits, batch.targets, reduction="none") for logits in (student, teacher))
            weights = -torch.expm1(-own / (other + TINY))
        log_student = F.log_softmax(student / self.temperature, 1)
        soft_labels = -(F.softmax(teacher / self.temperature, 1) * log_student).sum(1)
        return {"kd": self.kd_weight * self.temperature**2 * (weights * soft_labels).mean()}
