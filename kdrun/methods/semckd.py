"""SemCKD: the student's layers learn from the teacher's to which they are semantically close."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, conv_bn, maps, same_size


class SemCKD(FeatureMethod):
    """semckd_weight times the errors between all pairs of tapped maps, weighted by a learned attention.

    Chen et al. 2021, arXiv:2012.03236, equations 3 to 8. Each map of the student is projected to each map of the
    teacher; the mean squared errors of a sample are weighted by its attention, which sums to 1 over the teacher's maps,
    and are a mean over the student's maps and the batch. Queries and keys are embeddings of a sample's similarities to
    all samples of the batch. So the batch size is part of the net: a last batch of another size has no such term. Of
    two maps of unequal size the larger is average-pooled.
    """

    kd_weight: Weight = 1.0
    """Weight of the soft targets, T^2 KL(teacher || student)."""
    semckd_weight: Weight = 400.0
    """Weight of the errors."""
    factor: Annotated[int, "[1, 1024]"] = 4
    """Divisor of the batch size, for the dimensions of the embeddings; they have at least one."""

    def setup(self, exp: Experiment) -> None:
        self.size = exp.recipe.batch_size

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.student_taps, self.teacher_taps = maps(student, "student"), maps(teacher, "teacher")
        own, theirs = [student[tap][1] for tap in self.student_taps], [teacher[tap][1] for tap in self.teacher_taps]
        width = max(self.size // self.factor, 1)
        self.queries = nn.ModuleList(Embedding(self.size, width) for _ in own)
        self.keys = nn.ModuleList(Embedding(self.size, width) for _ in theirs)
        rows = ([projection(inputs, outputs) for outputs in theirs] for inputs in own)
        self.projections = nn.ModuleList(nn.ModuleList(row) for row in rows)

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        if len(student.logits) != self.size:
            return {}
        own = [student.features[tap] for tap in self.student_taps]
        theirs = [teacher.features[tap] for tap in self.teacher_taps]
        errors = self.errors(own, theirs)
        return {"semckd": self.semckd_weight * (self.attention(own, theirs) * errors).sum(2).mean()}

    def attention(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Returns the attention (N, student's maps, teacher's maps); it sums to 1 over the last."""
        queries = torch.stack([embed(similarities(each)) for embed, each in zip(self.queries, student, strict=True)], 1)
        keys = torch.stack([embed(similarities(each)) for embed, each in zip(self.keys, teacher, strict=True)], 1)
        return (queries @ keys.mT).softmax(2)

    def errors(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """Returns the mean squared errors (N, student's maps, teacher's maps) after the projections."""
        rows = []
        for number, own in enumerate(student):
            pooled = [same_size(own, theirs) for theirs in teacher]
            row = zip(self.projections.get_submodule(str(number)).children(), pooled, strict=True)
            rows.append(
                torch.stack([(project(one) - other).square().mean((1, 2, 3)) for project, (one, other) in row], 1)
            )
        return torch.stack(rows, 1)


class Embedding(nn.Module):
    """Maps a sample's similarities (N, batch size) to a vector of norm 1."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(size, size)
        self.linear2 = nn.Linear(size, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.linear2(self.linear1(x).relu()))


def similarities(features: Tensor) -> Tensor:
    """Returns the products (N, N) of all pairs of samples of ``features`` (N, C, H, W)."""
    flat = features.flatten(1)
    return flat @ flat.T


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """Returns the projection of a student's map to the teacher's channels."""
    inner, last = 2 * outputs, nn.Conv2d(2 * outputs, outputs, 1, bias=False)
    return nn.Sequential(*conv_bn(inputs, inner), nn.ReLU(), *conv_bn(inner, inner, 3), nn.ReLU(), last)
