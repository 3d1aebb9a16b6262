"""Attention transfer: where the student's maps are active becomes where the teacher's are."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, map_pairs, same_size


class AT(FeatureMethod):
    """at_weight times the distance of attention maps, summed over the pairs of tapped maps.

    Zagoruyko and Komodakis 2017, arXiv:1612.03928, section 3.1. The attention map of a sample is

        Q = mean over channels of |feature|^p, over all positions, divided by its L2 norm.

    ``form=mean_square`` is the mean over batch and positions of (Q_student - Q_teacher)^2, as in the authors' code and
    in all tables; ``form=norm`` is the L2 norm of the difference, which equation 2 has, as a mean over the batch. Of
    two maps of unequal size the larger is average-pooled.
    """

    at_weight: Weight = 1000.0
    """Weight of the attention maps."""
    p: Annotated[float, "[1, 16]"] = 2.0
    """Power of the activations."""
    form: Literal["mean_square", "norm"] = "mean_square"
    """Distance of two attention maps."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.pairs = map_pairs(student, teacher)

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        distances = [self.distance(student.features[own], teacher.features[theirs]) for own, theirs in self.pairs]
        return {"at": self.at_weight * torch.stack(distances).sum()}

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns the distance of the attention maps of two features."""
        own, theirs = same_size(student, teacher)
        difference = attention(own, self.p) - attention(theirs, self.p)
        if self.form == "norm":
            lengths: Tensor = torch.linalg.vector_norm(difference, dim=1)
            return lengths.mean()
        return difference.square().mean()


def attention(maps: Tensor, p: float) -> Tensor:
    """Returns the attention maps (N, H W) of ``maps`` (N, C, H, W), each of norm 1."""
    return F.normalize(maps.abs().pow(p).mean(1).flatten(1))
