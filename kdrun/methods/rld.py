"""Refined logits: the teacher's certainty without its mistakes, and its ranking below the right class."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Temperature, Weight
from kdrun.methods.base import Batch, LogitMethod, Terms, warmup
from kdrun.methods.dkd import divergence, split


class RLD(LogitMethod):
    """ce_weight CE(labels, student) + warm-up [confidence_weight T_c^2 SCD + correlation_weight T^2 MCD].

    Sun et al. 2024, arXiv:2408.07703, "Knowledge distillation with refined logits". With y the label and p a softmax,
        SCD = KL([max p, 1 - max p] of the teacher || [p_y, 1 - p_y] of the student), both at T_c,
        MCD = KL(teacher || student) over the classes that the teacher finds less likely than y, both at T,
    means over the batch: how sure to be of y is learned even from a teacher that is sure of another class, and where
    it is wrong the classes above y are left out. If none is below y, MCD is 0. The authors' code takes the logarithm of
    a sum of probabilities, which is infinite once y lies 104 T_c above the rest; here it is a difference of logarithms
    of sums. Their option of standardized logits is ``logit_std`` around this.
    """

    confidence_weight: Weight = 1.0
    """Weight of SCD, "sample confidence distillation", their alpha."""
    correlation_weight: Weight = 8.0
    """Weight of MCD, "masked correlation distillation", their beta."""
    confidence_temperature: Temperature = 1.0
    """Temperature T_c of SCD."""
    temperature: Temperature = 4.0
    """Temperature T of MCD."""
    warmup_epochs: Annotated[int, "[0, 100000]"] = 20
    """Epochs over which both weights rise to their values, evenly from the first epoch on; 0 for none."""

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        weight, t = warmup(batch.epoch, self.warmup_epochs), self.confidence_temperature
        own, other = split(student / t, batch.targets).target, split(teacher / t, teacher.argmax(1)).target
        below = teacher < teacher.gather(1, batch.targets[:, None])
        ranked = [log_softmax_over(logits / self.temperature, below) for logits in (teacher, student)]
        return {
            "confidence": weight * self.confidence_weight * t**2 * divergence(other, own),
            "correlation": weight * self.correlation_weight * self.temperature**2 * divergence(*ranked),
        }


def log_softmax_over(logits: Tensor, mask: Tensor) -> Tensor:
    """Returns the log-softmax of the ``logits`` (N, classes) in ``mask``; all others get a probability of 0.

    Where a row of the mask is empty, the distribution is uniform, without a gradient.
    """
    return F.log_softmax(logits.masked_fill(~mask, torch.finfo(logits.dtype).min), 1)
