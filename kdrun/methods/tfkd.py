"""Distillation without a teacher: a made-up one who always knows the answer."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.base import Batch, Method, Outputs, Terms


class VirtualTeacher(Method):
    """ce_weight CE(labels, student) + kd_weight KL(virtual teacher || student), the virtual teacher softened by T.

    Yuan et al. 2020, arXiv:1909.11723, section 5.2, "Tf-KD by manually designed regularization". Their code softens the
    virtual teacher only, takes no factor T^2, and multiplies a mean over classes too by a number that is 100 on 100
    classes: that is the sum over classes here. It puts the probabilities themselves, not their logarithms, into the
    softmax, which makes them all but even: ``softens`` says which.

    Args:
        ce_weight: of the labels.
        kd_weight: of the virtual teacher.
        temperature: T of the virtual teacher.
        confidence: its probability of the true class before that; all others share the rest.
        softens: ``logits`` divides the logarithms of its probabilities by T, as those of a real teacher;
            ``probabilities`` divides the probabilities, as the authors' code does.
    """

    needs_teacher = False

    def __init__(
        self,
        ce_weight: Annotated[float, "[0, inf)"] = 0.9,
        kd_weight: Annotated[float, "[0, inf)"] = 0.1,
        temperature: Annotated[float, "(0, 1000]"] = 20.0,
        confidence: Annotated[float, "(0, 1)"] = 0.99,
        softens: Literal["logits", "probabilities"] = "logits",
    ) -> None:
        super().__init__()
        self.ce_weight, self.kd_weight = ce_weight, kd_weight
        self.temperature, self.confidence, self.softens = temperature, confidence, softens

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        said = F.log_softmax(student.logits, 1)
        soft = self.virtual(batch.targets, said.shape[1])
        return {
            "ce": self.ce_weight * F.nll_loss(said, batch.targets),
            "virtual": self.kd_weight * F.kl_div(said, soft, reduction="batchmean"),
        }

    def virtual(self, labels: Tensor, classes: int) -> Tensor:
        """Returns what the virtual teacher says of samples of class ``labels`` (N,), softened: (N, classes)."""
        rest = (1 - self.confidence) / (classes - 1)
        sure = torch.full((len(labels), classes), rest, device=labels.device)
        sure.scatter_(1, labels[:, None], self.confidence)
        return F.softmax((sure.log() if self.softens == "logits" else sure) / self.temperature, 1)
