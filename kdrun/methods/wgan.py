"""The distillation game with a critic: the student's logits approach the teacher's in Wasserstein distance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from kdrun.methods.arguments import Positive, Weight, Width
from kdrun.methods.base import Batch, Outputs, Scores, Step, Terms, Update
from kdrun.methods.gan import Discriminator, Game, StepCount

Lipschitz = Literal["clip", "gp", "none"]

MATCHED = 2000
"""Number of test images whose logits are matched; the time grows with its cube, a tenth of a second for this number."""


class WGAN(Game):
    """The student as generator, and a critic D whose slope is bounded.

    Mandal and Mandan, "Knowledge distillation and its variations", section "Knowledge distillation using Wasserstein
    GANs":
        L_critic  = -critic_weight [D(teacher) - D(student)]
        L_student = ce_weight CE(labels, student) - gan_weight D(student).
    They name no bound on D's slope, without which its loss has no bound either. Two are available here: that of
    Arjovsky, Chintala, Bottou 2017, arXiv:1701.07875, algorithm 1 (weights clipped after every step; RMSprop), and that
    of Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1 (penalty on the norm of the gradient between real and fake,
    inside the brackets and with a minus; Adam with betas 0 and .9). Departure from both: the critic's additional steps
    use the same batch again, not new ones, so that the student's cross-entropy sees every whole epoch.
    """

    opponent: ClassVar[str] = "critic"

    ce_weight: Weight = 1.0
    """Weight of the cross-entropy with the labels, their beta."""
    gan_weight: Weight = 0.1
    """Weight of the critic's score of the student, their alpha."""
    critic_weight: Positive = 1.0
    """Weight of the critic's loss, their gamma; it only rescales the critic's gradient."""
    lipschitz: Lipschitz = "clip"
    """Bound on the critic's slope: ``clip`` clips weights, ``gp`` is the gradient penalty, ``none`` is no bound."""
    clip: Positive = 0.05
    """Largest absolute weight of the critic, with ``clip``."""
    penalty: Weight = 10.0
    """Weight of the squared difference of the gradient's norm from 1, with ``gp``."""
    critic_width: Width = 128
    """Units in each of the critic's two hidden layers."""
    critic_lr: Positive = 5e-4
    """Learning rate of the critic; the schedule changes it too."""
    critic_steps: StepCount = 1
    """Steps of the critic per batch."""

    def initial_discriminator(self, classes: int) -> nn.Module:
        return Discriminator(classes, self.critic_width, bias=False)

    def discriminator_update(self, loss: Callable[[Step], Terms]) -> Update:
        optimizer: Callable[[list[nn.Parameter]], Optimizer] = partial(torch.optim.RMSprop, lr=self.critic_lr)
        if self.lipschitz == "gp":
            optimizer = partial(torch.optim.Adam, lr=self.critic_lr, betas=(0.0, 0.9))
        after_step = self.clip_weights if self.lipschitz == "clip" else None
        params, repeat = self.discriminator.parameters(), self.critic_steps
        return Update(params, loss, optimizer, repeat, after_step, player=self.opponent)

    def clip_weights(self) -> None:
        """Brings every weight of the critic into [-clip, clip]."""
        for weight in self.discriminator.parameters():
            weight.clamp_(-self.clip, self.clip)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "gan": -self.gan_weight * self.discriminator(student.logits).mean(),
        }

    def discriminator_terms(self, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """Returns minus the gap between the teacher's scores and the student's, and with ``gp`` the penalty."""
        gap = self.discriminator(real).mean() - self.discriminator(fake).mean()
        terms = {"gap": -self.critic_weight * gap}
        if self.lipschitz == "gp":
            terms["penalty"] = self.critic_weight * self.penalty * (self.slope(real, fake) - 1).square().mean()
        return terms

    def slope(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns the norm of the critic's gradient (N,) at a random point between each pair of real and fake."""
        between = torch.lerp(real.float(), fake.float(), torch.rand(len(real), 1, device=real.device)).requires_grad_()
        (gradient,) = torch.autograd.grad(self.discriminator(between).sum(), between, create_graph=True)
        norm: Tensor = torch.linalg.vector_norm(gradient, dim=1)
        return norm

    def verdicts(self, real: Tensor, fake: Tensor) -> Scores:
        teacher, student = self.discriminator(real).mean().item(), self.discriminator(fake).mean().item()
        gap = {"critic_teacher": teacher, "critic_student": student, "critic_gap": teacher - student}
        return {**gap, "wasserstein": wasserstein(real[:MATCHED], fake[:MATCHED])}


def wasserstein(real: Tensor, fake: Tensor) -> float:
    """Returns the 1-Wasserstein distance of two sets of N points each, (N, D), where each point has mass 1/N.

    It is exact: the mean length of the cheapest matching. A critic's gap is a different number, since the critic's
    slope is only about 1, or what clipping leaves, and the critic lags behind a student that changes.
    """
    from scipy.optimize import linear_sum_assignment  # takes half a second, only at the end of these runs

    distances = torch.cdist(real.cpu().double(), fake.cpu().double(), compute_mode="donot_use_mm_for_euclid_dist")
    return float(distances[linear_sum_assignment(distances.numpy())].mean())
