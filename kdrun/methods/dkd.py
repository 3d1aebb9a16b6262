"""Soft targets taken apart: what the teacher says of the right class, and what it says of all others."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Temperature, Weight
from kdrun.methods.base import Batch, LogitMethod, Terms, warmup


class DKD(LogitMethod):
    """ce_weight CE(labels, student) + warm-up T^2 [target_weight TCKD + non_target_weight NCKD].

    Zhao et al. 2022, arXiv:2203.08679, eq. 7: "Decoupled knowledge distillation". With y the label and p the softmax of
    logits / T,
        TCKD = KL([p_y, 1 - p_y] of the teacher || the same of the student),
        NCKD = KL(teacher || student) of the softmaxes of all classes but y;
    KD at T is TCKD + (1 - p_y of the teacher) NCKD, so that a teacher that is sure of y hardly teaches the rest. Both
    are means over the batch. The authors' code sums the probabilities of all others and takes the logarithm, which is
    infinite once y lies 104 T above the rest, and masks y by a logit of -1000. Here 1 - p_y is a difference of
    logarithms of sums, and y is left out: the same numbers, finite everywhere.
    """

    target_weight: Weight = 1.0
    """Weight of TCKD, their alpha."""
    non_target_weight: Weight = 8.0
    """Weight of NCKD, their beta."""
    temperature: Temperature = 4.0
    """Temperature T of both."""
    warmup_epochs: Annotated[int, "[0, 100000]"] = 20
    """Epochs over which both weights rise to their values, evenly from the first epoch on; 0 for none."""

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        own, other = (split(logits / self.temperature, batch.targets) for logits in (student, teacher))
        weight = warmup(batch.epoch, self.warmup_epochs) * self.temperature**2
        return {
            "target": weight * self.target_weight * divergence(other.target, own.target),
            "non_target": weight * self.non_target_weight * divergence(other.rest, own.rest),
        }


class Split(NamedTuple):
    """Two log-distributions of which a softmax is made."""

    target: Tensor  # (N, 2): of the label, and of all other classes together
    rest: Tensor  # (N, classes - 1): of the other classes among themselves


def split(logits: Tensor, labels: Tensor) -> Split:
    """Returns the log-distributions of the softmax of ``logits`` (N, classes) at ``labels`` (N,)."""
    others = without(logits, labels)
    mass = others.logsumexp(1, keepdim=True)
    target = F.log_softmax(torch.cat([logits.gather(1, labels[:, None]), mass], 1), 1)
    return Split(target, others - mass)


def without(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns ``logits`` (N, classes) without the column of each sample's label: (N, classes - 1)."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    return logits.gather(1, columns + (columns >= labels[:, None]).long())  # no mask: its size would be read back


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Returns KL(teacher || student) of log-probabilities (N, K), summed over K, as a mean over the batch."""
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)
