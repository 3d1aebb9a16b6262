"""Distillation without a trained teacher: a virtual teacher always knows the answer."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Temperature, Weight
from kdrun.methods.base import Batch, Outputs, Teacherless, Terms


class VirtualTeacher(Teacherless):
    """ce_weight CE(labels, student) + kd_weight KL(virtual teacher || student), the virtual teacher softened by T.

    Yuan et al. 2020, arXiv:1909.11723, section 5.2, "Tf-KD by manually designed regularization". Their code softens
    only the virtual teacher and has no factor T^2. It takes the mean over classes too, and multiplies it by a number
    that is 100 for 100 classes: this is the sum over classes, as here. It takes the softmax of the probabilities
    themselves, not of their logarithms, which makes them almost uniform: ``softens`` selects one of the two.
    """

    ce_weight: Weight = 0.9
    """Weight of the cross-entropy with the labels."""
    kd_weight: Weight = 0.1
    """Weight of the KL divergence from the virtual teacher."""
    temperature: Temperature = 20.0
    """Temperature T of the virtual teacher."""
    confidence: Annotated[float, "(0, 1)"] = 0.99
    """The virtual teacher's probability of the true class, before it is softened; all other classes share the rest
    equally."""
    softens: Literal["logits", "probabilities"] = "logits"
    """Numbers that are divided by T: ``logits``, the logarithms of the virtual teacher's probabilities, as for a real
    teacher; ``probabilities``, the probabilities themselves, as in the authors' code."""

    def loss(self, student: Outputs, batch: Batch) -> Terms:
        log_student = F.log_softmax(student.logits, 1)
        soft = self.virtual(batch.targets, log_student.shape[1])
        return {
            "ce": self.ce_weight * F.nll_loss(log_student, batch.targets),
            "virtual": self.kd_weight * F.kl_div(log_student, soft, reduction="batchmean"),
        }

    def virtual(self, labels: Tensor, classes: int) -> Tensor:
        """Returns the virtual teacher's softened probabilities for samples of class ``labels`` (N,): (N, classes)."""
        rest = (1 - self.confidence) / (classes - 1)
        probabilities = torch.full((len(labels), classes), rest, device=labels.device)
        probabilities.scatter_(1, labels[:, None], self.confidence)
        return F.softmax((probabilities.log() if self.softens == "logits" else probabilities) / self.temperature, 1)
