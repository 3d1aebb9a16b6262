"""Correlation congruence: the student's samples correlate with one another as the teacher's do."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from kdrun.core.experiment import Experiment
from kdrun.methods.arguments import Positive, Weight, Width
from kdrun.methods.relation import RelationMethod, Tensor, Terms


class CC(RelationMethod):
    """cc_weight times the distance of the correlations between the samples of a batch.

    Peng et al. 2019, arXiv:1904.01802, equations 5 to 9. ``form=kernel`` is the paper's: K is the Gaussian RBF kernel
    of penultimate vectors of norm 1, as its Taylor series

        K(x, y) = sum over p up to ``order`` of exp(-2 gamma) (2 gamma)^p / p! (x y)^p,

    and the distance ||K_student - K_teacher||_F^2 / N^2. ``form=delta`` is what the CRD benchmark runs, from the
    authors' private code: both vectors go through learned linear layers of ``width`` outputs, and the distance is the
    mean of the sum of |d_i d_(i+1)|, products of the differences d of two neighbours in the batch. It is 0 where both
    layers map everything to 0, so that form can lose what it should keep.
    """

    cc_weight: Weight = 100.0
    """Weight of the correlations."""
    form: Literal["kernel", "delta"] = "kernel"
    """Form of the correlations."""
    gamma: Positive = 0.4
    """Sharpness of the kernel."""
    order: Annotated[int, "[1, 20]"] = 2
    """Order of the kernel's series."""
    width: Width = 128
    """Outputs of the linear layers of ``form=delta``."""

    def setup(self, exp: Experiment) -> None:
        super().setup(exp)
        if self.form == "delta":
            own, theirs = exp.classifier(exp.student, "student"), exp.classifier(exp.teacher, "teacher")
            self.embed(own.in_features, theirs.in_features)

    def embed(self, student: int, teacher: int) -> None:
        """Makes the linear layers for vectors of these widths."""
        self.student_layer, self.teacher_layer = nn.Linear(student, self.width), nn.Linear(teacher, self.width)

    def relations(self, student: Tensor, teacher: Tensor) -> Terms:
        if self.form == "kernel":
            difference = kernel(student, self.gamma, self.order) - kernel(teacher, self.gamma, self.order)
            return {"cc": self.cc_weight * difference.square().mean()}
        return {"cc": self.cc_weight * neighbour_products(self.student_layer(student), self.teacher_layer(teacher))}


def kernel(vectors: Tensor, gamma: float, order: int) -> Tensor:
    """Returns the kernel's values (N, N) between all pairs of ``vectors`` (N, width), by its series."""
    directions = F.normalize(vectors)
    cosines = directions @ directions.T
    factors = [math.exp(-2 * gamma) * (2 * gamma) ** power / math.factorial(power) for power in range(order + 1)]
    return torch.stack([factor * cosines**power for power, factor in enumerate(factors)]).sum(0)


def neighbour_products(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean over neighbours of the sum over dimensions of |d_i d_(i+1)|; 0 for a single sample."""
    differences = (student - teacher).abs()
    return (differences[:-1] * differences[1:]).sum() / max(len(differences) - 1, 1)
