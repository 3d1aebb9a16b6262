"""The flow of solution procedure: how one layer's channels lead to the next layer's is learned first."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, InitMethod, Outputs, Terms, neighbouring_pairs


class FSP(InitMethod):
    """A stage for the flow matrices, fsp_weight times their squared distance, then one for the labels.

    Yim, Joo, Bae, Kim 2017, CVPR, "A gift from knowledge distillation", equations 1 and 2. The flow matrix of two maps
    of a sample is the products of all channels of the one with all of the other, a mean over positions. Student and
    teacher meet in the mean squared difference of the matrices of neighbouring tapped maps, summed over these. Of two
    maps of unequal size the larger is pooled: by maxima as in the paper, by means as in the CRD benchmark. Student and
    teacher need equal channels.
    """

    fsp_weight: Weight = 1.0
    """Weight of the flow matrices."""
    pool: Literal["max", "mean"] = "max"
    """Pooling of the larger of two neighbouring maps."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.pairs = neighbouring_pairs(student, teacher)

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        own = self.flows([student.features[tap] for tap, _ in self.pairs])
        theirs = self.flows([teacher.features[tap] for _, tap in self.pairs])
        distances = [F.mse_loss(*each) for each in zip(own, theirs, strict=True)]
        return {"fsp": self.fsp_weight * torch.stack(distances).sum()}

    def flows(self, maps: list[Tensor]) -> list[Tensor]:
        """Returns the flow matrices (N, C, C') of all pairs of neighbouring maps."""
        return [flow(one, other, self.pool) for one, other in pairwise(maps)]


def flow(one: Tensor, other: Tensor, pool: Literal["max", "mean"]) -> Tensor:
    """Returns the flow matrix (N, C, C') of two maps (N, C, H, W) and (N, C', H', W'); the larger is pooled."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    shrink = F.adaptive_max_pool2d if pool == "max" else F.adaptive_avg_pool2d
    first, second = (maps if maps.shape[2:] == size else shrink(maps, size) for maps in (one, other))
    return first.flatten(2) @ second.flatten(2).mT / (size[0] * size[1])
