"""Training without a teacher: how teachers, and the same student alone, are made."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F

from kdrun.methods.base import Batch, Method, Outputs, Terms


class Scratch(Method):
    """Cross-entropy with the labels.

    Args:
        label_smoothing: part of the probability spread evenly over all classes (Szegedy et al. 2016,
            arXiv:1512.00567, section 7).
    """

    needs_teacher = False

    def __init__(self, label_smoothing: Annotated[float, "[0, 1)"] = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        return {"ce": F.cross_entropy(student.logits, batch.targets, label_smoothing=self.label_smoothing)}
