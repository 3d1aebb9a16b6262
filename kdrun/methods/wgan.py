"""The distillation game before a critic: the student's logits move towards the teacher's by Wasserstein's distance."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from kdrun.methods.base import Batch, Outputs, Scores, Terms
from kdrun.methods.gan import Game, Judge

Lipschitz = Literal["clip", "gp", "none"]

MATCHED = 2000
"""Test images whose logits are matched; the time goes with their cube, a tenth of a second for these."""


class WGAN(Game):
    """The student as generator before a critic D whose slope is bounded.

    Mandal and Mandan, "Knowledge distillation and its variations", section "Knowledge distillation using Wasserstein
    GANs":
        L_critic  = -critic_weight [D(teacher) - D(student)]
        L_student = ce_weight CE(labels, student) - gan_weight D(student).
    They name no bound on D's slope, without which its loss has none either. Here are that of Arjovsky, Chintala,
    Bottou 2017, arXiv:1701.07875, algorithm 1 (weights clipped after every step; RMSprop), and that of Gulrajani et
    al. 2017, arXiv:1704.00028, algorithm 1 (penalty on the norm of the gradient between real and fake, within the
    brackets and with a minus; Adam with betas 0 and .9). Departure from both: the critic's further steps see the same
    batch again, not new ones, so that the student's cross-entropy sees every epoch whole.

    Args:
        ce_weight: their beta.
        gan_weight: their alpha.
        critic_weight: their gamma; only rescales the critic's gradient.
        lipschitz: how the slope is bounded: ``clip``, ``gp`` or not at all, ``none``.
        clip: the largest absolute weight of the critic, with ``clip``.
        penalty: weight of the squared distance of the gradient's norm from 1, with ``gp``.
        critic_width: units in each of the critic's two hidden layers.
        critic_lr: learning rate of the critic; the schedule moves it too.
        critic_steps: of the critic, per batch.
    """

    def __init__(
        self,
        ce_weight: Annotated[float, "[0, inf)"] = 1.0,
        gan_weight: Annotated[float, "[0, inf)"] = 0.1,
        critic_weight: Annotated[float, "(0, inf)"] = 1.0,
        lipschitz: Lipschitz = "clip",
        clip: Annotated[float, "(0, inf)"] = 0.05,
        penalty: Annotated[float, "[0, inf)"] = 10.0,
        critic_width: Annotated[int, "[1, 100000]"] = 128,
        critic_lr: Annotated[float, "(0, inf)"] = 5e-4,
        critic_steps: Annotated[int, "[1, 1000]"] = 1,
    ) -> None:
        super().__init__()
        self.ce_weight, self.gan_weight, self.critic_weight = ce_weight, gan_weight, critic_weight
        self.lipschitz, self.clip, self.penalty = lipschitz, clip, penalty
        self.critic_width, self.critic_lr, self.judge_steps = critic_width, critic_lr, critic_steps

    def fresh_judge(self, classes: int) -> nn.Module:
        return Judge(classes, self.critic_width, bias=False)

    def judge_optimizer(self, params: list[nn.Parameter]) -> Optimizer:
        if self.lipschitz == "gp":
            return torch.optim.Adam(params, lr=self.critic_lr, betas=(0.0, 0.9))
        return torch.optim.RMSprop(params, lr=self.critic_lr)

    def after_judge(self) -> None:
        if self.lipschitz == "clip":
            for weight in self.judge.parameters():
                weight.clamp_(-self.clip, self.clip)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "gan": -self.gan_weight * self.judge(student.logits).mean(),
        }

    def judge_terms(self, real: Tensor, fake: Tensor, batch: Batch) -> Terms:
        """Returns what the critic goes down: it parts the teacher's scores from the student's."""
        terms = {"critic/gap": -self.critic_weight * (self.judge(real).mean() - self.judge(fake).mean())}
        if self.lipschitz == "gp":
            terms["critic/penalty"] = self.critic_weight * self.penalty * (self.slope(real, fake) - 1).square().mean()
        return terms

    def slope(self, real: Tensor, fake: Tensor) -> Tensor:
        """Returns the norm of the critic's gradient (N,) at a random place between each pair of real and fake."""
        between = torch.lerp(real.float(), fake.float(), torch.rand(len(real), 1, device=real.device)).requires_grad_()
        (gradient,) = torch.autograd.grad(self.judge(between).sum(), between, create_graph=True)
        norm: Tensor = torch.linalg.vector_norm(gradient, dim=1)
        return norm

    def verdicts(self, real: Tensor, fake: Tensor) -> Scores:
        teacher, student = self.judge(real).mean().item(), self.judge(fake).mean().item()
        gap = {"critic_teacher": teacher, "critic_student": student, "critic_gap": teacher - student}
        return {**gap, "wasserstein": wasserstein(real[:MATCHED], fake[:MATCHED])}


def wasserstein(real: Tensor, fake: Tensor) -> float:
    """Returns the 1-Wasserstein distance of two sets of equally many points (N, D), each of mass 1/N.

    Exact, as the mean length of the cheapest matching: a critic's gap is another matter, since its slope is only about
    1, or whatever clipping leaves, and it runs after a student who moves.
    """
    from scipy.optimize import linear_sum_assignment  # costs half a second, at the end of these runs alone

    apart = torch.cdist(real.cpu().double(), fake.cpu().double(), compute_mode="donot_use_mm_for_euclid_dist")
    return float(apart[linear_sum_assignment(apart.numpy())].mean())
