"""Distillation as a game: a discriminator learns to tell the student's logits from the teacher's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import field
from functools import partial
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from kdrun.core.experiment import Experiment
from kdrun.methods.arguments import Positive, Weight, Width
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stages, Step, Terms, Update

StepCount = Annotated[int, "[1, 1000]"]


class Discriminator(nn.Sequential):
    """Gives logits (N, classes) one score each, (N,), which is high for the teacher's.

    Args:
        classes: number of classes of the data.
        width: units in each of the two hidden layers.
        bias: whether a constant is added to the score; if only differences of scores count, it would never learn.
    """

    def __init__(self, classes: int, width: int, bias: bool = True) -> None:
        layers = (nn.Linear(classes, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2))
        super().__init__(*layers, nn.Linear(width, 1, bias), nn.Flatten(0))


class Game(Method, ABC):
    """Student and discriminator in turns; a subclass defines both losses and the discriminator's optimizer.

    The student is updated first, and the discriminator sees the logits of that same forward pass. A student with
    BatchNorm therefore counts each batch once, and its cross-entropy sees every whole epoch, however many steps the
    discriminator takes.
    """

    opponent: ClassVar[str] = "discriminator"
    """The name of the discriminator as a player."""

    discriminator: nn.Module = field(init=False)

    @abstractmethod
    def initial_discriminator(self, classes: int) -> nn.Module:
        """Returns the discriminator before its first step."""

    @abstractmethod
    def discriminator_terms(self, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """Returns the discriminator's weighted terms, from the teacher's and the student's logits (N, classes)."""

    @abstractmethod
    def discriminator_update(self, loss: Callable[[Step], Terms]) -> Update:
        """Returns the update in which the discriminator minimizes ``loss``."""

    def stages(self, exp: Experiment) -> Stages:
        self.discriminator = self.initial_discriminator(exp.data.source.classes)

        def loss(step: Step) -> Terms:
            return self.discriminator_terms(step(exp.teacher).logits, step.latest(exp.student).logits, step.batch)

        student = Update(exp.student.parameters(), self.loss_of(exp))
        players = {"student": exp.student, self.opponent: self.discriminator}
        yield exp.stage("distill", [student, self.discriminator_update(loss)], players)

    def metrics(self, exp: Experiment) -> Scores:
        self.discriminator.eval()
        with torch.no_grad():
            return self.verdicts(*(exp.predict(model, "test")[0] for model in (exp.teacher.model, exp.student)))

    def verdicts(self, real: Tensor, fake: Tensor) -> Scores:
        """Returns the discriminator's metrics, from the teacher's and the student's test logits (N, classes)."""
        teacher, student = self.discriminator(real), self.discriminator(fake)
        return {**p_real(teacher, student), "fooling_rate": share(student > 0)}


class GAN(Game):
    """The student as generator, the teacher's logits as real samples, and a discriminator of both.

    Mandal and Mandan, "Knowledge distillation and its variations", section "Knowledge distillation using GANs":
        L_discriminator = -discriminator_weight [log s(D(teacher)) + log(1 - s(D(student)))]
        L_student       = ce_weight CE(labels, student) - gan_weight log s(D(student)),   s the sigmoid.
    The source gives no sizes, weights or optimizer: those here are ours. Both losses are written with softplus, which
    does not overflow.
    """

    ce_weight: Weight = 1.0
    """Weight of the cross-entropy with the labels, their beta."""
    gan_weight: Weight = 0.1
    """Weight of the adversarial term, their alpha."""
    discriminator_weight: Positive = 1.0
    """Weight of the discriminator's loss, their gamma; it only rescales the discriminator's gradient."""
    discriminator_width: Width = 128
    """Units in each of the discriminator's two hidden layers."""
    discriminator_lr: Positive = 1e-3
    """Learning rate of the discriminator's Adam, with betas .5 and .9; the schedule changes it too."""
    discriminator_steps: StepCount = 1
    """Steps of the discriminator per batch."""

    def initial_discriminator(self, classes: int) -> nn.Module:
        return Discriminator(classes, self.discriminator_width)

    def discriminator_update(self, loss: Callable[[Step], Terms]) -> Update:
        adam: Callable[[list[nn.Parameter]], Optimizer] = partial(
            torch.optim.Adam, lr=self.discriminator_lr, betas=(0.5, 0.9)
        )
        params, repeat = self.discriminator.parameters(), self.discriminator_steps
        return Update(params, loss, adam, repeat, player=self.opponent)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "gan": self.gan_weight * F.softplus(-self.discriminator(student.logits)).mean(),
        }

    def discriminator_terms(self, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """Returns the cross-entropies on the teacher's logits (real) and on the student's (fake)."""
        return {
            "real": self.discriminator_weight * F.softplus(-self.discriminator(real)).mean(),
            "fake": self.discriminator_weight * F.softplus(self.discriminator(fake)).mean(),
        }


def p_real(real: Tensor, fake: Tensor) -> Scores:
    """Returns the mean probability of "teacher", for the teacher's and for the student's scores, and their gap."""
    teacher, student = real.sigmoid().mean().item(), fake.sigmoid().mean().item()
    return {"p_real_teacher": teacher, "p_real_student": student, "p_real_gap": teacher - student}


def share(hits: Tensor) -> float:
    """Returns the fraction of ``hits`` (N,) that is true."""
    return hits.float().mean().item()
