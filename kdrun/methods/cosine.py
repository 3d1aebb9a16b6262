"""The direction of a hidden layer: the student's features turn towards the teacher's."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.errors import ConfigError
from kdrun.methods.arguments import Tap, Weight
from kdrun.methods.base import Batch, Method, Outputs, Terms, choose


class CosineLoss(Method):
    """ce_weight CE(labels, student) + cosine_weight (1 - cosine(student's features, teacher's features)).

    PyTorch's tutorial "Knowledge Distillation", section "Cosine loss minimization run". The teacher's features are
    flattened and shortened to the length of the student's by means over neighbours. The norms of the features do not
    matter.
    """

    reads: ClassVar = frozenset({"logits", "features"})

    ce_weight: Weight = 0.75
    """Weight of the cross-entropy with the labels."""
    cosine_weight: Weight = 0.25
    """Weight of the cosine distance."""
    hint: Tap | None = None
    """Index of the teacher's tap that is the hint, from 0; the middle tap if None."""
    guided: Tap | None = None
    """Index of the student's tap that learns from the hint, from 0; the middle tap if None."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.teacher_tap = choose("hint", self.hint, teacher, "teacher")
        self.student_tap = choose("guided", self.guided, student, "student")
        short, long = student[self.student_tap].numel(), teacher[self.teacher_tap].numel()
        if long % short:
            what = f"the teacher's {long} features are no multiple of the student's {short}; choose other taps"
            raise ConfigError("method.guided", what)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        guided, hint = student.features[self.student_tap].flatten(1), teacher.features[self.teacher_tap].flatten(1)
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "cosine": self.cosine_weight * (1 - F.cosine_similarity(guided, pooled(hint, guided.shape[1]))).mean(),
        }


def pooled(features: Tensor, length: int) -> Tensor:
    """Returns ``features`` (N, n * length) as the means of every n neighbours, (N, length)."""
    return features.reshape(len(features), length, -1).mean(2)
