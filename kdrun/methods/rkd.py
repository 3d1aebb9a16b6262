"""Relational distillation: the student keeps the teacher's distances and angles between samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from kdrun.methods.arguments import Weight
from kdrun.methods.relation import RelationMethod, Tensor, Terms

CHUNK = 2**23
"""Most numbers in one tensor of the angles, 32 MiB of fp32; larger batches are taken in chunks."""


class RKD(RelationMethod):
    """distance_weight times a distance of distances, angle_weight times one of angles, between penultimate vectors.

    Park et al. 2019, arXiv:1904.05068, equations 4 to 10: the distances of all pairs of samples of a batch, divided by
    their mean, and the cosines of the angles of all triples; student and teacher meet in the smooth L1 (Huber) loss.
    As in the authors' code it is a mean over all N^2 pairs and N^3 triples, those of a sample with itself included.
    Two samples at one place have no direction: angles at that edge count as 0 and send no gradient.
    """

    distance_weight: Weight = 25.0
    """Weight of the distances."""
    angle_weight: Weight = 50.0
    """Weight of the angles."""

    def relations(self, student: Tensor, teacher: Tensor) -> Terms:
        terms = {}
        if self.distance_weight:
            own, theirs = distances(student), distances(teacher)
            terms["distance"] = self.distance_weight * F.smooth_l1_loss(own, theirs)
        if self.angle_weight:
            terms["angle"] = self.angle_weight * angle_loss(student, teacher)
        return terms


def distances(vectors: Tensor) -> Tensor:
    """Returns the distances (N, N) of ``vectors`` (N, width), divided by the mean of those above 0."""
    lengths = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    mean = lengths.sum() / (lengths > 0).sum().clamp_min(1)
    return lengths / mean.clamp_min(torch.finfo(mean.dtype).tiny)


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the smooth L1 loss of the angles, as a mean over all N^3 triples.

    Triples are taken by their middle sample, as many at once as ``CHUNK`` allows. The angles of a chunk are computed
    again in the backward pass, so that memory is that of one chunk: at N = 512 all angles would be 537 MB.
    """
    count, width = len(student), max(student.shape[1], teacher.shape[1])
    middles = torch.split(torch.arange(count, device=student.device), max(1, CHUNK // (count * max(count, width))))
    if len(middles) == 1:
        return angle_sum(student, teacher, middles[0]) / count**3
    sums = [checkpoint(angle_sum, student, teacher, part, use_reentrant=False) for part in middles]
    return torch.stack(sums).sum() / count**3


def angle_sum(student: Tensor, teacher: Tensor, middles: Tensor) -> Tensor:
    """Returns the sum of the smooth L1 losses of all angles at the samples ``middles``."""
    return F.smooth_l1_loss(angles(student, middles), angles(teacher, middles), reduction="sum")


def angles(vectors: Tensor, middles: Tensor) -> Tensor:
    """Returns the cosines (middles, N, N) of the angles at ``middles`` between all pairs of samples."""
    edges = vectors[None] - vectors[middles, None]
    lengths = torch.linalg.vector_norm(edges, dim=2, keepdim=True)
    directions = edges / torch.where(lengths > 0, lengths, torch.inf)
    return directions @ directions.mT
