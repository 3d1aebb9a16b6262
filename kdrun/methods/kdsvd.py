"""Distillation by singular vectors: how the main directions of one layer's channels relate to the next layer's."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, neighbouring_pairs

DENOMINATOR = 8.0
"""Of the squared difference in the radial basis function, as in the benchmark's code."""


class KDSVD(FeatureMethod):
    """kdsvd_weight times the distance of the relations between neighbouring maps, in their leading singular vectors.

    Lee, Kim, Song 2018, arXiv:1807.06819, section 3. A map is the matrix of its positions by its channels; v are its
    first k right singular vectors, and the singular values, of norm 1, are their weights. The relation of two
    neighbouring maps is the radial basis function exp(-(v - v')^2 / 8) of all pairs of channels; student and teacher
    meet in the sum of squared differences, divided by the batch size. The student has k + 3 vectors, of which each of
    the teacher's takes the one with the largest absolute cosine, with its sign and the teacher's weight. Student and
    teacher need equal channels.

    The sign of a singular vector is free. The student's follows the teacher's, but the teacher's own signs in two
    neighbouring maps change their relation: ``signs=svd`` takes them as the library returns them, as the benchmark's
    code does, so that another library or device may give another value; ``signs=positive`` makes the sum of a vector
    positive.

    Departure: the gradient of a singular vector, which grows without bound as two singular values meet, is damped
    there instead of clipped; elsewhere it is exact.
    """

    kdsvd_weight: Weight = 1.0
    """Weight of the relations."""
    k: Annotated[int, "[1, 64]"] = 1
    """Number of the teacher's singular vectors."""
    signs: Literal["svd", "positive"] = "svd"
    """Signs of the teacher's singular vectors."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.pairs = neighbouring_pairs(student, teacher)

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        vectors = [self.aligned(student.features[own], teacher.features[theirs]) for own, theirs in self.pairs]
        distances = [
            (relation(own, next_own) - relation(theirs, next_theirs)).square().sum()
            for (own, theirs), (next_own, next_theirs) in pairwise(vectors)
        ]
        return {"kdsvd": self.kdsvd_weight * torch.stack(distances).sum() / len(student.logits)}

    def aligned(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weighted singular vectors (N, C, k) of two maps, the student's in the order of the teacher's."""
        values, theirs = leading(teacher, self.k)
        if self.signs == "positive":
            theirs = theirs * torch.where(theirs.sum(1, keepdim=True) < 0, -1, 1)
        _, own = leading(student, self.k + 3)
        cosines = own.mT @ theirs
        nearest = cosines.abs().argmax(1, keepdim=True)
        signs = torch.zeros_like(cosines).scatter(1, nearest, cosines.gather(1, nearest).sign())
        weights = F.normalize(values, dim=1)[:, None]
        return own @ signs * weights, theirs * weights


def leading(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns the ``count`` largest singular values (N, count) of ``maps`` and their right vectors (N, C, count)."""
    kind = torch.promote_types(maps.dtype, torch.float32)
    with torch.autocast(maps.device.type, enabled=False):
        matrices = maps.flatten(2).mT.type(kind)
        pair: tuple[Tensor, Tensor] = RightVectors.apply(matrices, count)
    return pair


def relation(one: Tensor, other: Tensor) -> Tensor:
    """Returns the radial basis functions (N, C, C', k) between the entries of two maps' vectors."""
    return torch.exp(-(one[:, :, None] - other[:, None]).square() / DENOMINATOR)


class RightVectors(torch.autograd.Function):
    """The ``count`` largest singular values of matrices (N, rows, columns) and their right vectors (N, columns, count).

    A vector's gradient has a factor 1 / (s_i^2 - s_j^2) for each other vector j. It is damped where that difference is
    below 1e-6 of the largest s^2. The values take no gradient: the teacher's alone are used.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
        # all right vectors, for the gradient, but never more left ones than there are rows or columns
        rows, columns = matrices.shape[1:]
        _, values, vectors = torch.linalg.svd(matrices, full_matrices=rows < columns)
        squares = F.pad(values.square(), (0, columns - values.shape[1]))
        ctx.save_for_backward(matrices, squares, vectors.mT)
        values = values[:, :count]
        ctx.mark_non_differentiable(values)
        return values, vectors.mT[:, :, :count].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        matrices, squares, vectors = ctx.saved_tensors
        of_vectors = torch.zeros_like(vectors)
        of_vectors[:, :, : gradients[1].shape[2]] = gradients[1]
        gaps = squares[:, None] - squares[:, :, None]
        damping = (1e-6 * squares[:, :1, None]).square()
        factors = torch.where(gaps == 0, 0, gaps / (gaps.square() + damping))
        inner = vectors @ (factors * (vectors.mT @ of_vectors)) @ vectors.mT
        return matrices @ (inner + inner.mT), None
