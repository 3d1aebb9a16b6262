"""Distillation as a game: the student's logits shall pass for the teacher's before a judge who learns too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from kdrun.core.experiment import Experiment
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stages, Terms, Update


class Judge(nn.Sequential):
    """Scores logits (N, classes) with one number each, (N,): high for the teacher's.

    Args:
        classes: of the data.
        width: units in each of the two hidden layers.
        bias: whether a constant is added to the score; where only differences count it would never learn.
    """

    def __init__(self, classes: int, width: int, bias: bool = True) -> None:
        layers = (nn.Linear(classes, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2))
        super().__init__(*layers, nn.Linear(width, 1, bias), nn.Flatten(0))


class Game(Method, ABC):
    """Student and judge, turn by turn; a game of its own says what each goes down, and how the judge moves.

    The student moves first and the judge sees the logits of that same forward pass, so that a student with BatchNorm
    counts each batch once, and its cross-entropy sees every epoch whole however many steps the judge takes.
    """

    judge: nn.Module
    judge_steps: int

    @abstractmethod
    def fresh_judge(self, classes: int) -> nn.Module:
        """Returns the judge before its first step."""

    @abstractmethod
    def judge_terms(self, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """Returns what the judge goes down, given the teacher's and the student's logits (N, classes)."""

    @abstractmethod
    def judge_optimizer(self, params: list[nn.Parameter]) -> Optimizer:
        """Returns what moves the judge."""

    def after_judge(self) -> None:
        """Does what follows each step of the judge; nothing, as a rule."""

    def stages(self, exp: Experiment) -> Stages:
        self.judge = self.fresh_judge(exp.data.source.classes)
        teacher, said = exp.teacher, {}
        assert teacher is not None

        def student_loss(batch: Batch, real: Outputs) -> Terms:
            student = exp.student(batch.images)
            said["logits"] = student.logits.detach()
            return self.loss(student, real, batch)

        def judge_loss(batch: Batch, real: Outputs) -> Terms:
            return self.judge_terms(real.logits, said["logits"], batch)

        student_move = Update(exp.student.parameters(), student_loss)
        judge_move = Update(
            self.judge.parameters(), judge_loss, self.judge_optimizer, self.judge_steps, self.after_judge
        )
        modules = {"student": exp.student, "method": self}
        yield exp.stage("distill", [student_move, judge_move], modules, given=lambda batch: teacher(batch.images))

    def findings(self, exp: Experiment) -> Scores:
        assert exp.teacher is not None
        self.judge.eval()
        with torch.no_grad():
            return self.verdicts(*(exp.predict(model, "test")[0] for model in (exp.teacher.model, exp.student)))

    def verdicts(self, real: Tensor, fake: Tensor) -> Scores:
        """Returns what is found of the teacher's and the student's logits (N, classes) on the test images."""
        teacher, student = self.judge(real), self.judge(fake)
        return {**p_real(teacher, student), "fooling_rate": share(student > 0)}


class GAN(Game):
    """The student as generator, the teacher's logits as real samples, a judge of both.

    Mandal and Mandan, "Knowledge distillation and its variations", section "Knowledge distillation using GANs":
        L_judge   = -judge_weight [log s(D(teacher)) + log(1 - s(D(student)))]
        L_student = ce_weight CE(labels, student) - gan_weight log s(D(student)),   s the sigmoid.
    They give no sizes, weights or optimizer: those here are ours. Both are written with softplus, which does not
    overflow.

    Args:
        ce_weight: their beta.
        gan_weight: their alpha.
        judge_weight: their gamma; only rescales the judge's gradient.
        judge_width: units in each of the judge's two hidden layers.
        judge_lr: learning rate of the judge's Adam, with betas .5 and .9; the schedule moves it too.
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

    def fresh_judge(self, classes: int) -> nn.Module:
        return Judge(classes, self.judge_width)

    def judge_optimizer(self, params: list[nn.Parameter]) -> Optimizer:
        return torch.optim.Adam(params, lr=self.judge_lr, betas=(0.5, 0.9))

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "gan": self.gan_weight * F.softplus(-self.judge(student.logits)).mean(),
        }

    def judge_terms(self, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """Returns what the judge goes down: it errs where it takes real for fake, or fake for real."""
        return {
            "judge/real": self.judge_weight * F.softplus(-self.judge(real)).mean(),
            "judge/fake": self.judge_weight * F.softplus(self.judge(fake)).mean(),
        }


def p_real(real: Tensor, fake: Tensor) -> Scores:
    """Returns the mean probability with which the judge takes the teacher and the student for the teacher."""
    teacher, student = real.sigmoid().mean().item(), fake.sigmoid().mean().item()
    return {"p_real_teacher": teacher, "p_real_student": student, "p_real_gap": teacher - student}


def share(hits: Tensor) -> float:
    """Returns the part of ``hits`` (N,) that is true."""
    return hits.float().mean().item()
