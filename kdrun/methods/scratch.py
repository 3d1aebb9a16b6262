"""Training without a teacher: how teachers, and the baseline, are trained."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F

from kdrun.methods.base import Batch, Outputs, Teacherless, Terms


class Scratch(Teacherless):
    """Cross-entropy with the labels."""

    label_smoothing: Annotated[float, "[0, 1)"] = 0.0
    """Part of the probability that is spread evenly over all classes (Szegedy et al. 2016, arXiv:1512.00567, section
    7)."""

    def loss(self, student: Outputs, batch: Batch) -> Terms:
        return {"ce": F.cross_entropy(student.logits, batch.targets, label_smoothing=self.label_smoothing)}
