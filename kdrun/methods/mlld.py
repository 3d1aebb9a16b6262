"""Logits matched on three levels: each sample, the classes among themselves, the samples among themselves."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Temperature, Weight
from kdrun.methods.base import Batch, LogitMethod, Terms

Mask = Literal["samples", "share", "none"]


class MLLD(LogitMethod):
    """ce_weight CE(labels, student) + kd_weight sum over temperatures of (INSTANCE + CLASS + BATCH), of one view.

    Jin, Wang, Lin 2023, CVPR, "Multi-level logit distillation". With N samples, C classes and Q the softmax (N, C) of
    logits / T,
        INSTANCE = T^2 KL(teacher || student), a mean over samples,
        CLASS = |Q_t' Q_t - Q_s' Q_s|^2 / C,
        BATCH = |Q_t Q_t' - Q_s Q_s'|^2 / N,
    of the half of the samples (for CLASS of the classes) in which the teacher has least confidence. The paper sums this
    over a weakly and a strongly augmented view of each image. Here it is of the one view that a batch has: the strong
    view is not there yet, and neither is the paper's result. ``mask`` is ``samples`` for the half, ``share`` for what
    the authors' code does, which multiplies each term of all samples by the share of the mask, ``none`` for all.
    """

    ce_weight: Weight = 0.1
    """Weight of the cross-entropy with the labels."""
    kd_weight: Weight = 0.9
    """Weight of all three levels at every temperature."""
    temperatures: list[Temperature] = field(default_factory=lambda: [4.0, 3.0, 5.0, 2.0, 6.0])
    """Temperatures T, whose terms are added up."""
    mask: Mask = "samples"
    """Rows that count."""

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        probabilities = F.softmax(teacher, 1)
        samples = weights(probabilities.amax(1), self.mask)
        classes = weights(probabilities.sum(0), self.mask)
        sums = [levels(student / t, teacher / t, t, samples, classes) for t in self.temperatures]
        instance, of_classes, of_batch = (
            self.kd_weight * torch.stack(level).sum() for level in zip(*sums, strict=True)
        )
        return {"instance": instance, "class": of_classes, "batch": of_batch}


def weights(confidence: Tensor, mask: Mask) -> Tensor:
    """Returns the weight of each row, (K,), by the teacher's confidence (K,): 1 up to the median, 0 above it.

    ``share`` gives every row the mean of these, ``none`` gives 1.
    """
    if mask == "none":
        return torch.ones_like(confidence)
    low = (confidence <= confidence.quantile(0.5)).type_as(confidence)
    return low if mask == "samples" else low.mean().expand_as(low)


def levels(
    student: Tensor, teacher: Tensor, temperature: float, samples: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the terms of the three levels.

    Args:
        student: logits (N, C), divided by the temperature.
        teacher: logits (N, C), divided by the temperature.
        temperature: T, whose square multiplies the first level.
        samples: weights (N,) of the samples, in the first and the last level.
        classes: weights (C,) of the classes, in the second level.
    """
    log_student, log_teacher = F.log_softmax(student, 1), F.log_softmax(teacher, 1)
    own, other = log_student.exp(), log_teacher.exp()
    instance = temperature**2 * (samples * (other * (log_teacher - log_student)).sum(1)).mean()
    of_classes = (classes[:, None] * (other.T @ other - own.T @ own) ** 2).sum() / len(classes)
    of_batch = (samples[:, None] * (other @ other.T - own @ own.T) ** 2).sum() / len(samples)
    return instance, of_classes, of_batch
