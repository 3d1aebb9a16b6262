"""Logits matched in squared error, the oldest form of distillation."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Weight
from kdrun.methods.base import Batch, LogitMethod, Terms


class Logits(LogitMethod):
    """ce_weight CE(labels, student) + logits_weight mean (student's logits - teacher's logits)^2.

    Ba and Caruana 2014, arXiv:1312.6184, section 2.2, eq. 1. They train on the logits alone: ``ce_weight`` 0. Their
    loss is half the squared distance of the vectors; here it is a mean over the classes too, as in the public code
    whose weight 0.1 is the default. The distance is that of soft targets as T grows without bound (Hinton, Vinyals,
    Dean 2015, arXiv:1503.02531, section 2.1), but the mean of a sample's logits counts too.
    """

    logits_weight: Weight = 0.1
    """Weight of the squared error, a mean over samples and classes."""

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        return {"logits": self.logits_weight * F.mse_loss(student, teacher)}
