"""Logits of parts of an image: what the teacher sees in each place, not in the mean of all."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.added import last_map, shape_of
from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.arguments import MethodNode
from kdrun.methods.base import Batch, HardAndSoft, Method, Outputs, Scores, Terms
from kdrun.methods.wrapper import with_soft_part


class SDD(Method):
    """The base method, its soft part on the logits of every cell of the image, at several scales.

    Wei et al. 2024, arXiv:2403.13512, "Scale decoupled distillation": the last map before its pooling is averaged over
    the cells of a grid for each of ``scales`` (1 is the whole image), and the net's own classifier makes logits of each
    cell, for student and teacher. The soft part is the mean over all samples and cells; a cell in which the teacher is
    right and its global logits are wrong, or the other way round ("complementary"), counts twice. The cross-entropy is
    of the global logits. The base's soft part has to be a mean over samples, as in kd, dkd and nkd. Departure: the
    authors set what is not a number to 0. Which cells count twice is read from the device once per batch.
    """

    reads: ClassVar = frozenset({"logits", "classifier"})

    base: MethodNode
    """Method whose soft part is taken of each cell; any whose loss has one."""
    scales: list[Annotated[int, "[1, 64]"]]
    """Cells along each side of the image, for each scale."""

    inner: HardAndSoft = field(init=False)

    def setup(self, exp: Experiment) -> None:
        self.inner = with_soft_part(exp, self.base)
        self.inner.setup(exp)
        if not self.scales:
            raise ConfigError("method.scales", "there are none; give the cells along each side, as in [1,2]")
        self.student_tap, self.teacher_tap = last_map(exp, exp.student), last_map(exp, exp.teacher)
        for role, model, number in (
            ("student", exp.student, self.student_tap),
            ("teacher", exp.teacher, self.teacher_tap),
        ):
            height, width = shape_of(exp, model, number)[2:]
            if max(self.scales) > min(height, width):
                what = f"{max(self.scales)} cells along a side do not fit the {role}'s last map of {height}x{width}"
                raise ConfigError("method.scales", f"{what}; use fewer")
        # in a tuple, or the classifiers would be parts of the method, and the teacher's would be trained
        self.classifiers = exp.classifier(exp.student, "student"), exp.classifier(exp.teacher, "teacher")

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        own = self.cells(student.features[self.student_tap], self.classifiers[0])
        other = self.cells(teacher.features[self.teacher_tap], self.classifiers[1])
        hard = self.inner.hard(student.logits, teacher.logits, batch)
        return {**hard, **self.of_cells(own, other, teacher.logits, batch)}

    def of_cells(self, student: Tensor, teacher: Tensor, whole: Tensor, batch: Batch) -> Terms:
        """Returns the soft part of the logits of cells.

        Args:
            student: logits (cells * N, classes), the samples of the batch cell after cell.
            teacher: logits (cells * N, classes).
            whole: the teacher's global logits (N, classes).
            batch: the batch of N samples.
        """
        count = len(student) // len(whole)
        labels, is_right = batch.targets.repeat(count), (whole.argmax(1) == batch.targets).repeat(count)
        twice = ((teacher.argmax(1) == labels) != is_right).nonzero()[:, 0]
        terms = self.inner.soft(student, teacher, replace(batch, targets=labels))
        if not len(twice):
            return terms
        more = self.inner.soft(student[twice], teacher[twice], replace(batch, targets=labels[twice]))
        return {name: term + len(twice) / len(labels) * more[name] for name, term in terms.items()}

    def cells(self, maps: Tensor, classifier: nn.Linear) -> Tensor:
        """Returns the logits of all cells of ``maps`` (N, C, H, W), cell after cell: (cells * N, classes)."""
        pooled = [F.adaptive_avg_pool2d(maps, scale).flatten(2) for scale in self.scales]
        logits: Tensor = classifier(torch.cat(pooled, 2).permute(2, 0, 1).flatten(0, 1))
        return logits

    def metrics(self, exp: Experiment) -> Scores:
        return self.inner.metrics(exp)
