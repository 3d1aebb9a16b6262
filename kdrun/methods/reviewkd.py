"""Knowledge review: the student's deep layers take part in learning the teacher's shallow ones."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.added import penultimate, preactivation
from kdrun.core.experiment import Experiment
from kdrun.methods.arguments import Weight, Width
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, conv_bn, map_pairs, maps

LEVELS = (4, 2, 1)
"""Sides of the pooled maps in the hierarchical context loss; each has half of the previous one's weight."""


class ReviewKD(FeatureMethod):
    """reviewkd_weight times the hierarchical context losses between fused maps of the student and maps of the teacher.

    Chen et al. 2021, arXiv:2104.09044, equations 5 to 8. From deep to shallow, each of the student's maps is fused with
    what came before, and compared with the teacher's map of that depth; the penultimate vectors, as maps of one
    position, are the deepest. The student's maps are its tapped ones, the teacher's are taken before their activation.
    The weight rises linearly over the first ``warmup`` epochs. The fusions are then discarded.
    """

    reads: ClassVar = frozenset({"logits", "features", "classifier"})

    reviewkd_weight: Weight = 5.0
    """Weight of the losses."""
    warmup: Annotated[int, "[0, 100000]"] = 20
    """Epochs in which the weight rises: it is weight epoch / warmup, with epochs from 1."""
    width: Width = 512
    """Most channels inside the fusions; fewer if the student's deepest map has fewer."""

    def setup(self, exp: Experiment) -> None:
        taps = maps(exp.shapes(exp.teacher), "teacher")
        self.before = {tap: preactivation(exp, exp.teacher, tap).number for tap in taps}
        self.vectors = penultimate(exp, exp.student), penultimate(exp, exp.teacher)
        own, theirs = exp.classifier(exp.student, "student"), exp.classifier(exp.teacher, "teacher")
        self.widths = [own.in_features, theirs.in_features]

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        pairs = map_pairs(student, teacher)
        own = [student[tap][1] for tap, _ in pairs] + self.widths[:1]
        theirs = [teacher[tap][1] for _, tap in pairs] + self.widths[1:]
        self.student_taps = [tap for tap, _ in pairs]
        self.teacher_taps = [self.before[tap] for _, tap in pairs]
        self.review = Review(own, theirs, min(self.width, own[-1]))

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        own = [student.features[tap] for tap in self.student_taps]
        theirs = [teacher.features[tap] for tap in self.teacher_taps]
        vectors = student.features[self.vectors[0]], teacher.features[self.vectors[1]]
        losses = self.review([*own, as_map(vectors[0])], [*theirs, as_map(vectors[1])])
        rise = min(batch.epoch / self.warmup, 1.0) if self.warmup else 1.0
        return {"reviewkd": rise * self.reviewkd_weight * torch.stack(losses).sum()}


class Review(nn.Module):
    """Fuses the student's maps from deep to shallow; returns the loss at each, the deepest first.

    Args:
        student: channels of the student's maps, from shallow to deep.
        teacher: channels of the teacher's maps.
        width: channels inside the fusions.
    """

    def __init__(self, student: list[int], teacher: list[int], width: int) -> None:
        super().__init__()
        pairs = list(zip(student, teacher, strict=True))[::-1]
        self.fusions = nn.ModuleList(Fusion(*pair, width, fuses=number > 0) for number, pair in enumerate(pairs))

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> list[Tensor]:
        losses, deeper = [], None
        for fusion, own, theirs in zip(self.fusions, student[::-1], teacher[::-1], strict=True):
            mapped, deeper = fusion(own, deeper, theirs.shape[2:])
            losses.append(context_loss(mapped, theirs))
        return losses


class Fusion(nn.Module):
    """Attention-based fusion of a map of the student with the fused map of the next deeper one.

    Args:
        inputs: channels of the student's map.
        outputs: channels of the teacher's map.
        width: channels of the fused map.
        fuses: whether there is a deeper map.
    """

    def __init__(self, inputs: int, outputs: int, width: int, fuses: bool) -> None:
        super().__init__()
        layers = conv_bn(inputs, width), conv_bn(width, outputs, 3)
        for conv, _ in layers:
            nn.init.kaiming_uniform_(conv.weight, a=1)
        self.inner, self.outer = (nn.Sequential(*pair) for pair in layers)
        self.attention = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid()) if fuses else None

    def forward(self, own: Tensor, deeper: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Returns the map to compare with the teacher's, of its ``size``, and the fused map."""
        fused: Tensor = self.inner(own)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            shares = self.attention(torch.cat([fused, deeper], 1))
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        if fused.shape[2:] != size:
            fused = F.interpolate(fused, size, mode="nearest")
        return self.outer(fused), fused


def as_map(vectors: Tensor) -> Tensor:
    """Returns ``vectors`` (N, width) as maps of one position."""
    return vectors[:, :, None, None]


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the hierarchical context loss: squared errors of the maps and of them pooled to each level, weighted.

    Levels that are not smaller than the map are left out; the weights are divided by their sum.
    """
    losses, weights, weight = [F.mse_loss(student, teacher)], [1.0], 1.0
    for level in LEVELS:
        if level < student.shape[2]:
            weight /= 2
            own, theirs = (F.adaptive_avg_pool2d(each, level) for each in (student, teacher))
            losses.append(weight * F.mse_loss(own, theirs))
            weights.append(weight)
    return torch.stack(losses).sum() / sum(weights)
