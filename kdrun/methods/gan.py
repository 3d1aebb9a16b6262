"""Distillation as a game: the student's logits shall pass for the teacher's before a judge who learns too."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.experiment import Experiment
from kdrun.methods.base import Batch, Method, Outputs, Stages, Terms, Update


class Judge(nn.Sequential):
    """Scores logits (N, classes) with one number each, (N,): high for the teacher's."""

    def __init__(self, classes: int, width: int) -> None:
        layers = (nn.Linear(classes, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2))
        super().__init__(*layers, nn.Linear(width, 1), nn.Flatten(0))


class GAN(Method):
    """The student as generator, the teacher's logits as real samples, a judge of both.

    Mandal and Mandan, "Knowledge distillation and its variations", section "Knowledge distillation using GANs":
        L_judge   = -judge_weight [log s(D(teacher)) + log(1 - s(D(student)))]
        L_student = ce_weight CE(labels, student) - gan_weight log s(D(student)),   s the sigmoid.
    They give no sizes, weights or optimizer: those here are ours. Both are written with softplus, which does not
    overflow. The student moves first and the judge sees the logits of that same forward pass, so that a student with
    BatchNorm counts each batch once.

    Args:
        ce_weight: their beta.
        gan_weight: their alpha.
        judge_weight: their gamma; only rescales the judge's gradient.
        judge_width: units in each of the judge's two hidden layers.
        judge_lr: learning rate of the judge's Adam, with betas .5 and .9.
        judge_steps: of the judge, per batch.
    """

    def __init__(
        self,
        ce_weight: Annotated[float, "[0, inf)"] = 1.0,
        gan_weight: Annotated[float, "[0, inf)"] = 0.1,
        judge_weight: Annotated[float, "(0, inf)"] = 1.0,
        judge_width: Annotated[int, "[1, 100000]"] = 128,
        judge_lr: Annotated[float, "(0, inf)"] = 1e-3,
        judge_steps: Annotated[int, "[1, 1000]"] = 1,
    ) -> None:
        super().__init__()
        self.ce_weight, self.gan_weight, self.judge_weight = ce_weight, gan_weight, judge_weight
        self.judge_width, self.judge_lr, self.judge_steps = judge_width, judge_lr, judge_steps

    def stages(self, exp: Experiment) -> Stages:
        self.judge = Judge(exp.data.source.classes, self.judge_width)
        teacher, said = exp.teacher, {}
        assert teacher is not None

        def student_loss(batch: Batch, real: Outputs) -> Terms:
            student = exp.student(batch.images)
            said["logits"] = student.logits.detach()
            return self.loss(student, real, batch)

        def judge_loss(batch: Batch, real: Outputs) -> Terms:
            return self.judge_terms(real.logits, said["logits"])

        adam = partial(torch.optim.Adam, lr=self.judge_lr, betas=(0.5, 0.9))
        updates = [
            Update(exp.student.parameters(), student_loss),
            Update(self.judge.parameters(), judge_loss, adam, repeat=self.judge_steps),
        ]
        modules = {"student": exp.student, "method": self}
        yield exp.stage("distill", updates, modules, given=lambda batch: teacher(batch.images))

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "gan": self.gan_weight * F.softplus(-self.judge(student.logits)).mean(),
        }

    def judge_terms(self, real: Tensor, fake: Tensor) -> Terms:
        """Returns what the judge goes down: it errs where it takes real for fake, or fake for real."""
        return {
            "judge_real": self.judge_weight * F.softplus(-self.judge(real)).mean(),
            "judge_fake": self.judge_weight * F.softplus(self.judge(fake)).mean(),
        }
