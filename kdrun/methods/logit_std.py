"""Logits of mean 0 and standard deviation 1: a student need not learn how large its teacher's logits are."""

from __future__ import annotations

from torch import Tensor

from kdrun.methods.arguments import Weight
from kdrun.methods.base import Batch, Terms
from kdrun.methods.wrapper import Wrapper

TINY = 1e-7
"""Added to the standard deviation, as in the authors' code: constant logits become zeros."""


class LogitStd(Wrapper):
    """The base method, its soft part on standardized logits and ``weight`` times as heavy.

    Sun et al. 2024, arXiv:2403.01427, "Logit standardization in knowledge distillation", algorithm 1: each sample's
    logits of student and of teacher lose their mean and are divided by their standard deviation, whose variance has
    classes - 1 in the denominator. The cross-entropy keeps the raw logits. With standardized logits the temperature has
    another meaning: theirs is 2 where others have 4, and the weight 9 where KD has 0.9.
    """

    weight: Weight = 10.0
    """Factor of all terms of the base's soft part."""

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        terms = self.inner.soft(standardized(student), standardized(teacher), batch)
        return {name: self.weight * term for name, term in terms.items()}


def standardized(logits: Tensor) -> Tensor:
    """Returns ``logits`` (N, classes) with mean 0 and standard deviation 1 in each row."""
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + TINY)
