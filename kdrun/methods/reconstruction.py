"""Translating images without a teacher: how teachers of that task, and the same student alone, are made."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.base import Batch, Method, Outputs, Terms
from kdrun.train.metrics import endpoint_error

Distance = Literal["epe", "l1", "l2"]


def distance(one: Tensor, other: Tensor, form: Distance) -> Tensor:
    """Returns how far two maps (N, C, H, W) are from each other, as a mean that their size does not change.

    Args:
        one: the first.
        other: the second.
        form: ``epe``, the end-point error, is the Euclidean distance of a pixel's channels, mean over samples and
            pixels; ``l1`` and ``l2`` are the mean absolute and the mean squared difference of all numbers.
    """
    if form == "epe":
        return endpoint_error(one, other)
    return F.l1_loss(one, other) if form == "l1" else F.mse_loss(one, other)


class Reconstruction(Method):
    """The distance to the image that was wanted.

    Args:
        distance: see ``distance``.
    """

    task = "translation"
    needs_teacher = False

    def __init__(self, distance: Distance = "epe") -> None:
        super().__init__()
        self.distance: Distance = distance

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        return {self.distance: distance(student.logits, batch.targets, self.distance)}
