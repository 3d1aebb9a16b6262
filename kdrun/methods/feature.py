"""What methods of features share: the terms of labels and logits, and which maps face each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Epochs, Temperature, Weight
from kdrun.methods.base import NO_OUTPUTS, Batch, Method, Outputs, Stage, Stages, Step, Terms, Update
from kdrun.methods.kd import soft_loss
from kdrun.train.stage import STUDENT


class FeatureMethod(Method):
    """ce_weight CE(labels, student) + kd_weight T^2 KL(teacher || student) + what the method itself minimizes.

    It is the sum that the CRD benchmark (Tian et al. 2020, arXiv:1910.10699) trains all its methods by.
    """

    reads: ClassVar = frozenset({"logits", "features"})

    ce_weight: Weight = 1.0
    """Weight of the cross-entropy with the labels."""
    kd_weight: Weight = 0.0
    """Weight of the soft targets, T^2 KL(teacher || student)."""
    temperature: Temperature = 4.0
    """Temperature T of the soft targets."""

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        """Returns the method's own weighted terms."""
        raise TypeError(f"{type(self).__name__} defines no hints")

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        return {**self.usual(student, teacher, batch), **self.hints(student, teacher, batch)}

    def usual(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        """Returns the terms of labels and soft targets; one whose weight is 0 is left out."""
        terms = {}
        if self.ce_weight:
            terms["ce"] = self.ce_weight * F.cross_entropy(student.logits, batch.targets)
        if self.kd_weight:
            distance = soft_loss(student.logits, teacher.logits, self.temperature)
            terms["kd"] = self.kd_weight * self.temperature**2 * distance
        return terms


class InitMethod(FeatureMethod):
    """First the method's own terms alone, which initialize the student; then those of labels and soft targets.

    The stages are called init and distill. The first has no scores and keeps its last epoch. Both are trained by the
    run's recipe; learned parts are discarded after the first.
    """

    init_epochs: Epochs = 30
    """Epochs of the first stage."""

    def stages(self, exp: Experiment) -> Stages:
        self.begin(exp)
        yield self.init_stage(exp)
        yield self.distill(exp)

    def init_stage(self, exp: Experiment) -> Stage:
        """Returns the stage that trains the student and the method's parts by the method's own terms."""

        def loss(step: Step) -> Terms:
            return self.hints(step(exp.student), step(exp.teacher), step.batch)

        update = Update([*exp.student.parameters(), *self.parameters()], loss)
        players = {STUDENT: exp.student, "method": self}
        return exp.stage("init", [update], players, epochs=self.init_epochs, deployed=None)

    def loss_of(self, exp: Experiment) -> Callable[[Step], Terms]:
        def loss(step: Step) -> Terms:
            teacher = step(exp.teacher) if self.kd_weight else NO_OUTPUTS
            return self.usual(step(exp.student), teacher, step.batch)

        return loss


def maps(shapes: list[torch.Size], role: str) -> list[int]:
    """Returns the numbers of the taps that are maps, from shallow to deep.

    Raises:
        ConfigError: if there are none.
    """
    numbers = [number for number, shape in enumerate(shapes) if len(shape) == 4]
    if not numbers:
        raise ConfigError(f"{role}.taps", f"the method needs a map, but the {role} has none tapped; name a submodule")
    return numbers


def map_pairs(student: list[torch.Size], teacher: list[torch.Size]) -> list[tuple[int, int]]:
    """Returns the pairs of tapped maps of student and teacher, in order.

    Raises:
        ConfigError: if they have not equally many.
    """
    own, theirs = maps(student, "student"), maps(teacher, "teacher")
    if len(own) != len(theirs):
        what = f"{len(own)} maps face {len(theirs)} of the teacher; set student.taps or teacher.taps"
        raise ConfigError("student.taps", what)
    return list(zip(own, theirs, strict=True))


def neighbouring_pairs(student: list[torch.Size], teacher: list[torch.Size]) -> list[tuple[int, int]]:
    """Returns ``map_pairs`` for a method that relates each map to the next, with the channels of the other model.

    Raises:
        ConfigError: if there are fewer than two pairs, or two maps of a pair differ in channels.
    """
    pairs = map_pairs(student, teacher)
    if len(pairs) < 2:
        raise ConfigError("student.taps", "the method relates neighbouring maps; tap two or more")
    for own, theirs in pairs:
        if student[own][1] != teacher[theirs][1]:
            what = f"{student[own][1]} channels face {teacher[theirs][1]} of the teacher; this method needs as many"
            raise ConfigError("student", what)
    return pairs


def last_maps(student: list[torch.Size], teacher: list[torch.Size]) -> tuple[int, int]:
    """Returns the numbers of the last tapped maps of student and teacher."""
    return maps(student, "student")[-1], maps(teacher, "teacher")[-1]


def same_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Returns two maps (N, C, H, W) of one height and width: what is larger is average-pooled."""
    size = torch.Size(map(min, student.shape[2:], teacher.shape[2:]))
    return pooled_to(student, size), pooled_to(teacher, size)


def pooled_to(maps: Tensor, size: torch.Size) -> Tensor:
    """Returns ``maps`` (N, C, H, W), average-pooled to ``size`` if they are of another."""
    return maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, (size[0], size[1]))


def conv_bn(inputs: int, outputs: int, kernel: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Returns a convolution that keeps the size, without bias, and its normalization."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)


__all__ = [
    "Batch", "FeatureMethod", "InitMethod", "Outputs", "Tensor", "Terms", "conv_bn", "last_maps", "map_pairs", "maps",
    "neighbouring_pairs", "pooled_to", "same_size",
]  # fmt: skip
