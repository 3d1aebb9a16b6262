"""Similarity-preserving distillation: what looks alike to the teacher looks alike to the student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, last_maps


class SP(FeatureMethod):
    """sp_weight ||G_student - G_teacher||_F^2 / N^2 on the last tapped maps of a batch of N samples.

    Tung and Mori 2019, arXiv:1907.09682, equations 1 to 4. G is the matrix of the products of all pairs of samples,
    their maps flattened; each of its rows is divided by its L2 norm. The maps may be of any two shapes.
    """

    sp_weight: Weight = 3000.0
    """Weight of the similarities."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.student_tap, self.teacher_tap = last_maps(student, teacher)

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        own, theirs = similarities(student.features[self.student_tap]), similarities(teacher.features[self.teacher_tap])
        return {"sp": self.sp_weight * (own - theirs).square().mean()}


def similarities(maps: Tensor) -> Tensor:
    """Returns the similarities (N, N) of the samples of ``maps`` (N, ...); the rows have norm 1."""
    flat = maps.flatten(1)
    return F.normalize(flat @ flat.T)
