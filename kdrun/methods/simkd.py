"""SimKD: the teacher's classifier is reused; the student learns the features that go into it, and nothing else."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.added import last_map, shape_of
from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Method, Outputs, Terms
from kdrun.methods.feature import conv_bn, same_size
from kdrun.train.taps import Tapped


class SimKD(Method):
    """The mean squared error between the teacher's last map and the projection of the student's.

    Chen et al. 2022, arXiv:2203.14001, equation 3. What is deployed is the student's layers up to its last map, the
    projector, and the teacher's classifier, frozen; the student's own classifier is not trained and not stored. The
    projector is a 1x1 convolution to the teacher's channels divided by ``factor``, a 3x3 one, and a 1x1 one to the
    teacher's channels, each with batch normalization and ReLU. Of two maps of unequal size the larger is
    average-pooled. No labels are read.
    """

    reads: ClassVar = frozenset({"logits", "classifier"})

    factor: Annotated[int, "[1, 1024]"] = 2
    """Divisor of the projector's inner channels; more makes the deployed model smaller."""

    def setup(self, exp: Experiment) -> None:
        self.student_tap, self.teacher_tap = last_map(exp, exp.student), last_map(exp, exp.teacher)
        self.size = shape_of(exp, exp.teacher, self.teacher_tap)
        if self.size[1] < self.factor:
            raise ConfigError("method.factor", f"{self.factor} leaves the projector no channels of {self.size[1]}")
        self.projector = projector(shape_of(exp, exp.student, self.student_tap)[1], self.size[1], self.factor)
        own = exp.classifier(exp.student, "student").requires_grad_(False)
        own.training_only = True  # type: ignore[assignment]

    def deployed(self, exp: Experiment) -> nn.Module:
        classifier = exp.classifier(exp.teacher, "teacher")
        return Tapped(Reused(exp.student, self.student_tap, self.projector, self.size, classifier))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        own, theirs = same_size(student.features[self.student_tap], teacher.features[self.teacher_tap])
        return {"simkd": F.mse_loss(self.projector(own), theirs)}


class Reused(nn.Module):
    """The deployed model: the student up to its last map, the projector, and the teacher's classifier.

    Args:
        student: the student.
        number: the number of the feature that is its last map.
        projector: maps that to the teacher's channels.
        size: shape of the teacher's last map; a larger map of the student is average-pooled before it is projected.
        classifier: the teacher's classifier.
    """

    def __init__(
        self, student: Tapped, number: int, projector: nn.Module, size: torch.Size, classifier: nn.Linear
    ) -> None:
        super().__init__()
        self.student, self.projector, self.classifier = student, projector, classifier
        self.number, self.size = number, size

    def forward(self, images: Tensor) -> Tensor:
        maps, _ = same_size(self.student(images).features[self.number], images.new_empty(self.size))
        logits: Tensor = self.classifier(self.projector(maps).mean((2, 3)))
        return logits


def projector(inputs: int, outputs: int, factor: int) -> nn.Sequential:
    """Returns the projector from maps of ``inputs`` channels to ``outputs`` channels."""
    inner = outputs // factor
    layers = (conv_bn(inputs, inner), conv_bn(inner, inner, 3), conv_bn(inner, outputs))
    return nn.Sequential(*(each for layer in layers for each in (*layer, nn.ReLU())))
