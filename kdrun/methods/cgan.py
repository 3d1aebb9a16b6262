"""The distillation game before a judge who names the class too."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.methods.base import Batch, Outputs, Terms
from kdrun.methods.gan import GAN


class TwoHeads(nn.Module):
    """Scores logits (N, classes): ``forward`` gives (N,), high for the teacher's, ``classify`` logits (N, classes)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        layers = (nn.Linear(classes, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2))
        self.body = nn.Sequential(*layers)
        self.real, self.label = nn.Linear(width, 1), nn.Linear(width, classes)

    def forward(self, logits: Tensor) -> Tensor:
        score: Tensor = self.real(self.body(logits)).flatten(0)
        return score

    def classify(self, logits: Tensor) -> Tensor:
        """Returns the logits of the class that the judge reads off ``logits``."""
        named: Tensor = self.label(self.body(logits))
        return named


class CGAN(GAN):
    """GAN distillation with an auxiliary classifier in the judge, and the L1 distance between the logits.

    Xu, Hsu, Huang 2017, arXiv:1709.00513:
        L_adversarial = log P(real | D(teacher)) + log P(fake | D(student))
        L_class       = log P(label | D(teacher)) + log P(label | D(student)).
    The judge ascends both; the student descends its part of the first, ascends its part of the second, and has the
    cross-entropy and |teacher - student|_1 besides. Their settings could not be recovered: weights, sizes and rates
    are ours. Departures: the student's adversarial part is -log P(real | D(student)), which does not fade where
    the judge is sure; the L1 distance is a mean over classes, not their sum.

    Args:
        ce_weight: of the cross-entropy with the labels.
        gan_weight: of the student's adversarial part.
        class_weight: of the student's part of L_class.
        l1_weight: of the mean absolute distance to the teacher's logits.
        judge_weight: of all that the judge goes down; only rescales its gradient.
        judge_width: units in each of the judge's two hidden layers.
        judge_lr: learning rate of the judge's Adam, with betas .5 and .9; the schedule moves it too.
        judge_steps: of the judge, per batch.
    """

    judge: TwoHeads

    def __init__(
        self,
        ce_weight: Annotated[float, "[0, inf)"] = 1.0,
        gan_weight: Annotated[float, "[0, inf)"] = 0.1,
        class_weight: Annotated[float, "[0, inf)"] = 0.1,
        l1_weight: Annotated[float, "[0, inf)"] = 0.1,
        judge_weight: Annotated[float, "(0, inf)"] = 1.0,
        judge_width: Annotated[int, "[1, 100000]"] = 128,
        judge_lr: Annotated[float, "(0, inf)"] = 1e-3,
        judge_steps: Annotated[int, "[1, 1000]"] = 1,
    ) -> None:
        super().__init__(ce_weight, gan_weight, judge_weight, judge_width, judge_lr, judge_steps)
        self.class_weight, self.l1_weight = class_weight, l1_weight

    def fresh_judge(self, classes: int) -> nn.Module:
        return TwoHeads(classes, self.judge_width)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        assert teacher is not None
        named = F.cross_entropy(self.judge.classify(student.logits), batch.targets)
        return {
            **super().loss(student, teacher, batch),
            "class": self.class_weight * named,
            "l1": self.l1_weight * F.l1_loss(student.logits, teacher.logits),
        }

    def judge_terms(self, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """Returns what the judge goes down: it errs in who it was, or in the class."""
        teacher, student = (F.cross_entropy(self.judge.classify(logits), batch.targets) for logits in (real, fake))
        return {**super().judge_terms(real, fake, batch), "judge/class": self.judge_weight * (teacher + student)}
