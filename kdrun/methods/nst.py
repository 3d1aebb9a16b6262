"""Neuron selectivity transfer: the student's channels are distributed as the teacher's are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, map_pairs, same_size


class NST(FeatureMethod):
    """nst_weight times the squared maximum mean discrepancy of the channels, summed over the pairs of tapped maps.

    Huang and Wang 2017, arXiv:1707.01219, equations 4 and 7. The samples of the two distributions are the channels,
    flattened and of norm 1; the kernel is polynomial, (x y)^2. It is a mean over the batch, and keeps the teacher's own
    term, which is a constant. Of two maps of unequal size the larger is average-pooled.
    """

    nst_weight: Weight = 50.0
    """Weight of the discrepancy."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.pairs = map_pairs(student, teacher)

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        distances = [discrepancy(student.features[own], teacher.features[theirs]) for own, theirs in self.pairs]
        return {"nst": self.nst_weight * torch.stack(distances).sum()}


def discrepancy(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the squared maximum mean discrepancy of the channels of two maps, as a mean over samples."""
    own, theirs = (F.normalize(maps.flatten(2), dim=2) for maps in same_size(student, teacher))
    return kernel(own, own) + kernel(theirs, theirs) - 2 * kernel(own, theirs)


def kernel(one: Tensor, other: Tensor) -> Tensor:
    """Returns the mean of (x y)^2 over samples and over all pairs of their channels, of (N, C, H W)."""
    return (one @ other.mT).square().mean()
