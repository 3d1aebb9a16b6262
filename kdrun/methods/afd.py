"""Attention-based feature distillation: which of the student's blocks learns from which of the teacher's is learned."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.added import blocks, shape_of
from kdrun.core.experiment import Experiment
from kdrun.methods.arguments import Weight, Width
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, pooled_to


class AFD(FeatureMethod):
    """afd_weight times the distance of spatial maps between all pairs of blocks, weighted by a learned attention.

    Ji, Heo, Park 2021, arXiv:2102.02973, equations 1 to 8. Each block of the teacher attends to the blocks of the
    student, by its query and their keys, which come from the means of the maps over positions; the attention of a
    teacher's block sums to 1. The distance of two blocks is the mean squared difference of their means over channels of
    squares, the student's average-pooled to the teacher's size, both divided by their L2 norm. It is summed over the
    teacher's blocks, a mean over the batch. Blocks are those of the tapped stages; in a residual net its residual
    blocks, as the authors have it.
    """

    ce_weight: Weight = 0.1
    """Weight of the cross-entropy with the labels."""
    kd_weight: Weight = 0.9
    """Weight of the soft targets, T^2 KL(teacher || student)."""
    afd_weight: Weight = 200.0
    """Weight of the distance."""
    width: Width = 128
    """Dimensions of queries and keys."""

    def setup(self, exp: Experiment) -> None:
        self.student_taps, self.teacher_taps = blocks(exp.student), blocks(exp.teacher)
        own = [shape_of(exp, exp.student, tap)[1] for tap in self.student_taps]
        theirs = [shape_of(exp, exp.teacher, tap)[1] for tap in self.teacher_taps]
        self.attention = Attention(own, theirs, self.width)

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        own = [student.features[tap] for tap in self.student_taps]
        theirs = [teacher.features[tap] for tap in self.teacher_taps]
        return {"afd": self.afd_weight * weighted_distance(own, theirs, self.attention(own, theirs))}


class Projection(nn.Module):
    """A linear layer with batch normalization."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.linear(x))
        return y


class Attention(nn.Module):
    """The attention (N, teacher's blocks, student's blocks) of each teacher's block over those of the student.

    Args:
        student: channels of the student's blocks.
        teacher: channels of the teacher's blocks.
        width: dimensions of queries and keys.
    """

    def __init__(self, student: list[int], teacher: list[int], width: int) -> None:
        super().__init__()
        self.keys = nn.ModuleList(Projection(channels, width) for channels in student)
        self.queries = nn.ModuleList(Projection(channels, width) for channels in teacher)
        self.bilinear = Projection(width, width * len(teacher))
        self.student_place = nn.Parameter(torch.empty(len(student), width))
        self.teacher_place = nn.Parameter(torch.empty(len(teacher), width))
        for place in (self.student_place, self.teacher_place):
            nn.init.xavier_normal_(place)

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        keys = torch.stack([key(maps.mean((2, 3))) for key, maps in zip(self.keys, student, strict=True)], 1).relu()
        queries = torch.stack([query(maps.mean((2, 3))) for query, maps in zip(self.queries, teacher, strict=True)], 1)
        samples, own, width = keys.shape
        keys = self.bilinear(keys.flatten(0, 1)).view(samples, own, len(teacher), width)
        products = torch.einsum("nstw,ntw->nts", keys, queries) + self.teacher_place @ self.student_place.T
        return (products / math.sqrt(width)).softmax(2)


def weighted_distance(student: list[Tensor], teacher: list[Tensor], attention: Tensor) -> Tensor:
    """Returns the distances of all pairs of blocks, weighted by ``attention``, summed; a mean over the batch."""
    distances = []
    for theirs in teacher:
        target = spatial(theirs, theirs.shape[2:])
        distances.append(
            torch.stack([(spatial(own, theirs.shape[2:]) - target).square().mean(1) for own in student], 1)
        )
    return (attention * torch.stack(distances, 1)).sum((1, 2)).mean()


def spatial(maps: Tensor, size: torch.Size) -> Tensor:
    """Returns where ``maps`` (N, C, H, W) are active, pooled to ``size``: (N, positions), of norm 1."""
    return F.normalize(pooled_to(maps.square().mean(1, keepdim=True), size).flatten(1))
