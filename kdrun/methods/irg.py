"""The instance relationship graph: distances between samples, and how far one layer carries each of them."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.core.added import penultimate
from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, maps


class IRG(FeatureMethod):
    """Weighted distances of vertices, edges and transformations of the instance relationship graph.

    Liu et al. 2019, CVPR, "Knowledge distillation via instance relationship graph", equations 5 to 10, in the form of
    public code (github.com/AberHu/Knowledge-Distillation-Zoo); the authors' own is not in PyTorch. Vertices: the mean
    squared error of the logits. Edges: the squared distances of all pairs of samples, divided by the largest, in the
    last two tapped maps and the penultimate vector, a mean over these three. Transformations: each sample's squared
    distance between the two maps, divided by the largest; there the first map is average-pooled to the second's size,
    and neighbouring channels of the one with more are averaged. Each is compared by the mean squared error.
    """

    reads: ClassVar = frozenset({"logits", "features", "classifier"})

    vertex_weight: Weight = 0.1
    """Weight of the logits."""
    edge_weight: Weight = 5.0
    """Weight of the distances between samples."""
    transformation_weight: Weight = 5.0
    """Weight of the distances between layers."""

    def setup(self, exp: Experiment) -> None:
        self.vectors = penultimate(exp, exp.student), penultimate(exp, exp.teacher)

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.taps = [maps(shapes, role)[-2:] for shapes, role in ((student, "student"), (teacher, "teacher"))]
        for taps, shapes, role in zip(self.taps, (student, teacher), ("student", "teacher"), strict=True):
            if len(taps) < 2:
                raise ConfigError(f"{role}.taps", "the method relates two neighbouring maps; tap two or more")
            low, high = sorted(shapes[tap][1] for tap in taps)
            if high % low:
                what = f"{high} channels are no multiple of the {low} of the neighbouring map"
                raise ConfigError(f"{role}.taps", f"{what}; tap others")

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        own, theirs = (
            [outputs.features[tap] for tap in taps] for outputs, taps in zip((student, teacher), self.taps, strict=True)
        )
        vectors = student.features[self.vectors[0]], teacher.features[self.vectors[1]]
        edges = [F.mse_loss(distances(one), distances(two)) for one, two in (*zip(own, theirs, strict=True), vectors)]
        return {
            "vertex": self.vertex_weight * F.mse_loss(student.logits, teacher.logits),
            "edge": self.edge_weight * torch.stack(edges).mean(),
            "transformation": self.transformation_weight * F.mse_loss(carried(*own), carried(*theirs)),
        }


def distances(features: Tensor) -> Tensor:
    """Returns the squared distances (N, N) of the samples of ``features`` (N, ...), divided by the largest."""
    flat = features.flatten(1)
    return shares(torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square())


def carried(first: Tensor, second: Tensor) -> Tensor:
    """Returns the squared distances (N,) between two maps of each sample, divided by the largest."""
    channels = min(first.shape[1], second.shape[1])
    pooled = F.adaptive_avg_pool2d(first, (second.shape[2], second.shape[3]))
    one, other = (
        maps.reshape(len(maps), channels, -1, *maps.shape[2:]).mean(2).flatten(1) for maps in (pooled, second)
    )
    return shares((one - other).square().sum(1))


def shares(squares: Tensor) -> Tensor:
    """Returns ``squares`` divided by the largest of them."""
    return squares / squares.max().clamp_min(torch.finfo(squares.dtype).tiny)
