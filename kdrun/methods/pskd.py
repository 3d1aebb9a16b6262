"""A student that learns from itself: from what it predicted of each image one epoch before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.methods.base import Step, Teacherless, Terms

if TYPE_CHECKING:
    from kdrun.core.experiment import Experiment


class PSKD(Teacherless):
    """Cross-entropy with (1 - a) label + a (student's probabilities of one epoch before), a = past_weight epoch/epochs.

    Kim et al. 2021, arXiv:2006.12000, "Self-knowledge distillation with progressive refinement of targets": a rises
    evenly to ``past_weight`` in the last epoch. In the first epoch there is no past, and the targets are the labels.
    What the student predicted is its output in training, of the view that it saw then. It is kept for every training
    image: images x classes numbers of 4 bytes, part of each checkpoint.
    """

    past_weight: Annotated[float, "[0, 1]"] = 0.8
    """Weight of the past prediction in the last epoch, their alpha_T."""

    def setup(self, exp: Experiment) -> None:
        images, classes = exp.data.train_places.count, exp.data.source.classes
        self.epochs, self.latest = exp.recipe.epochs, (torch.empty(0), torch.empty(0))
        self.memories = (Predictions(torch.zeros(images, classes, device=exp.runtime.device)),)

    def memory(self) -> nn.Module:
        return self.memories[0]

    def loss_of(self, exp: Experiment) -> Callable[[Step], Terms]:
        def loss(step: Step) -> Terms:
            batch, log_student = step.batch, F.log_softmax(step(exp.student).logits, 1)
            self.latest = batch.index, log_student.detach().exp().float()
            targets = self.targets(batch.targets, self.memories[0].past[batch.index], batch.epoch)
            return {"ce": -(targets * log_student).sum(1).mean()}

        return loss

    def targets(self, labels: Tensor, past: Tensor, epoch: int) -> Tensor:
        """Returns targets (N, classes) from ``labels`` (N,) and the probabilities of the epoch before (N, classes)."""
        weight = self.past_weight * epoch / self.epochs if epoch > 1 else 0.0
        return weight * past + (1 - weight) * F.one_hot(labels, past.shape[1])

    def after_step(self) -> None:
        index, probabilities = self.latest
        self.memories[0].past[index] = probabilities  # each image comes once in an epoch


class Predictions(nn.Module):
    """The student's probabilities (images, classes) of each training image in the epoch before."""

    past: Tensor

    def __init__(self, past: Tensor) -> None:
        super().__init__()
        self.register_buffer("past", past)
