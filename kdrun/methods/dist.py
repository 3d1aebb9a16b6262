"""Correlations in place of divergences: the teacher's order of classes and of samples matters, not its numbers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Temperature, Weight
from kdrun.methods.base import Batch, LogitMethod, Terms

TINY = 1e-8
"""Added to the product of two norms, as in the authors' code: a constant row or column has a correlation of 0."""


class DIST(LogitMethod):
    """ce_weight CE(labels, student) + T^2 [inter_weight (1 - rho of rows) + intra_weight (1 - rho of columns)].

    Huang et al. 2022, arXiv:2205.10536: rho is Pearson's correlation of the student's softened
    probabilities with the teacher's, of each sample over the classes (inter-class relation), of each class over the
    batch (intra-class relation), and the mean of these. T^2 stands in the authors' code, not in the paper:
    ``t_squared``. The term of columns depends on the batch size; of a single sample it is a constant.
    """

    inter_weight: Weight = 2.0
    """Weight of the correlation over classes, their beta."""
    intra_weight: Weight = 2.0
    """Weight of the correlation over samples, their gamma."""
    temperature: Temperature = 4.0
    """Temperature T, which divides both logits; 1 on ImageNet."""
    t_squared: bool = True
    """Whether both are multiplied by T^2, as in the authors' code; at T = 1 it makes no difference."""

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        own, other = (F.softmax(logits / self.temperature, 1) for logits in (student, teacher))
        weight = self.temperature**2 if self.t_squared else 1.0
        return {
            "inter": weight * self.inter_weight * (1 - correlation(own, other).mean()),
            "intra": weight * self.intra_weight * (1 - correlation(own.T, other.T).mean()),
        }


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Returns Pearson's correlation of each row of ``one`` (N, K) with the same row of ``other``: (N,)."""
    one, other = (rows - rows.mean(1, keepdim=True) for rows in (one, other))
    norms: Tensor = torch.linalg.vector_norm(one, dim=1) * torch.linalg.vector_norm(other, dim=1)
    return (one * other).sum(1) / (norms + TINY)
