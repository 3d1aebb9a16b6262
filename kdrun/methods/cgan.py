"""The distillation game with a discriminator that predicts the class too."""

from __future__ import annotations

from dataclasses import field

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.methods.arguments import Weight
from kdrun.methods.base import Batch, Outputs, Terms
from kdrun.methods.gan import GAN


class TwoHeads(nn.Module):
    """Scores logits (N, classes): ``forward`` gives (N,), high for the teacher's; ``classify`` gives (N, classes)."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        layers = (nn.Linear(classes, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2))
        self.body = nn.Sequential(*layers)
        self.real, self.label = nn.Linear(width, 1), nn.Linear(width, classes)

    def forward(self, logits: Tensor) -> Tensor:
        score: Tensor = self.real(self.body(logits)).flatten(0)
        return score

    def classify(self, logits: Tensor) -> Tensor:
        """Returns logits (N, classes) of the class predicted from ``logits``."""
        classes: Tensor = self.label(self.body(logits))
        return classes


class CGAN(GAN):
    """GAN distillation with an auxiliary classifier in the discriminator, and the L1 distance between the logits.

    Xu, Hsu, Huang 2017, arXiv:1709.00513:
        L_adversarial = log P(real | D(teacher)) + log P(fake | D(student))
        L_class       = log P(label | D(teacher)) + log P(label | D(student)).
    The discriminator maximizes both. The student minimizes its part of the first, maximizes its part of the second, and
    also minimizes the cross-entropy and |teacher - student|_1. Their settings could not be recovered: weights, sizes
    and rates are ours. Departures: the student's adversarial part is -log P(real | D(student)), which does not fade
    where the discriminator is certain; the L1 distance is a mean over classes, not their sum.
    """

    class_weight: Weight = 0.1
    """Weight of the student's part of L_class."""
    l1_weight: Weight = 0.1
    """Weight of the mean absolute distance to the teacher's logits."""

    discriminator: TwoHeads = field(init=False)

    def initial_discriminator(self, classes: int) -> nn.Module:
        return TwoHeads(classes, self.discriminator_width)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        classified = F.cross_entropy(self.discriminator.classify(student.logits), batch.targets)
        return {
            **super().loss(student, teacher, batch),
            "class": self.class_weight * classified,
            "l1": self.l1_weight * F.l1_loss(student.logits, teacher.logits),
        }

    def discriminator_terms(self, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """Returns the cross-entropies of both heads: teacher or student, and the class."""
        teacher, student = (
            F.cross_entropy(self.discriminator.classify(logits), batch.targets) for logits in (real, fake)
        )
        terms = super().discriminator_terms(real, fake, batch)
        return {**terms, "class": self.discriminator_weight * (teacher + student)}
