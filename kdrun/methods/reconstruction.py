"""Image translation without a teacher: how teachers of that task, and the baseline, are trained."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.base import Batch, Outputs, Teacherless, Terms
from kdrun.train.metrics import endpoint_error

Distance = Literal["epe", "l1", "l2"]


def distance_of(one: Tensor, other: Tensor, form: Distance) -> Tensor:
    """Returns the distance of two maps (N, C, H, W), as a mean that does not depend on their size.

    Args:
        one: the first map.
        other: the second map.
        form: ``epe``, the end-point error, is the Euclidean distance over a pixel's channels, averaged over samples and
            pixels; ``l1`` and ``l2`` are the mean absolute and the mean squared difference of all values.
    """
    if form == "epe":
        return endpoint_error(one, other)
    return F.l1_loss(one, other) if form == "l1" else F.mse_loss(one, other)


class Reconstruction(Teacherless):
    """The distance of the output to the target image; the end-point error is that of the code of report 3 (Chavhan)."""

    task: ClassVar = "translation"

    distance: Distance = "epe"
    """Distance of output and target, see ``distance_of``."""

    def loss(self, student: Outputs, batch: Batch) -> Terms:
        return {self.distance: distance_of(student.logits, batch.targets, self.distance)}
