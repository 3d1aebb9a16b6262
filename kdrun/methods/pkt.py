"""Probabilistic knowledge transfer: which samples are neighbours, as a distribution."""

from __future__ import annotations

from kdrun.methods.arguments import Weight
from kdrun.methods.relation import RelationMethod, Tensor, Terms

EPSILON = 1e-7
"""Added to norms and probabilities, as in the authors' code."""


class PKT(RelationMethod):
    """pkt_weight times the divergence of the student's distribution of neighbours from the teacher's.

    Passalis and Tefas 2018, arXiv:1803.10837, equations 3 to 6, with the cosine kernel: the similarity of two
    penultimate vectors is (cosine + 1) / 2, a row of similarities divided by its sum is a distribution over the batch.
    As in the authors' code the divergence sum t log(t / s) is a mean over all N^2 pairs, not a sum, hence the weight.
    """

    pkt_weight: Weight = 30000.0
    """Weight of the divergence."""

    def relations(self, student: Tensor, teacher: Tensor) -> Terms:
        own, theirs = neighbours(student), neighbours(teacher)
        divergence = theirs * ((theirs + EPSILON) / (own + EPSILON)).log()
        return {"pkt": self.pkt_weight * divergence.mean()}


def neighbours(vectors: Tensor) -> Tensor:
    """Returns the distributions (N, N) of the neighbours of ``vectors`` (N, width); each row sums to 1."""
    directions = vectors / (vectors.norm(dim=1, keepdim=True) + EPSILON)
    similarities = (directions @ directions.T + 1) / 2
    rows: Tensor = similarities / similarities.sum(1, keepdim=True)
    return rows
