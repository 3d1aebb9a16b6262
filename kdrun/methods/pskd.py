"""A student that learns from itself: from what it predicted of each image one epoch before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.base import Stage, Step, Teacherless, Terms

if TYPE_CHECKING:
    from kdrun.core.experiment import Experiment


class PSKD(Teacherless):
    """Cross-entropy with (1 - a) label + a (student's probabilities of one epoch before), a = past_weight epoch/epochs.

    Kim et al. 2021, arXiv:2006.12000, "Self-knowledge distillation with progressive refinement of targets": a rises
    evenly to ``past_weight`` in the last epoch. In the first epoch there is no past, and the targets are the labels.
    What the student predicted is its output in training, of the view that it saw then. It is kept for every training
    image: images x classes numbers of 4 bytes, part of each checkpoint and of the copy of the best epoch.
    """

    past_weight: Annotated[float, "[0, 1]"] = 0.8
    """Weight of the past prediction in the last epoch, their alpha_T."""

    past: Tensor = field(init=False)

    def setup(self, exp: Experiment) -> None:
        images, classes = exp.data.train.size + exp.data.val.size, exp.data.source.classes
        self.epochs, self.latest = exp.recipe.epochs, (torch.empty(0), torch.empty(0))
        self.register_buffer("past", torch.zeros(images, classes))

    def loss_of(self, exp: Experiment) -> Callable[[Step], Terms]:
        def loss(step: Step) -> Terms:
            log_student = F.log_softmax(step(exp.student).logits, 1)
            targets = self.targets(step.batch.targets, self.past[step.batch.index], step.batch.epoch)
            self.latest = step.batch.index, log_student.detach().exp().float()
            return {"ce": -(targets * log_student).sum(1).mean()}

        return loss

    def targets(self, labels: Tensor, past: Tensor, epoch: int) -> Tensor:
        """Returns targets (N, classes) from ``labels`` (N,) and the probabilities of the epoch before (N, classes)."""
        weight = self.past_weight * epoch / self.epochs if epoch > 1 else 0.0
        return weight * past + (1 - weight) * F.one_hot(labels, past.shape[1])

    def distill(self, exp: Experiment, name: str = "distill", **changes: Any) -> Stage:
        stage = super().distill(exp, name, **changes)
        stage.updates[0].after_step = self.remember
        return stage

    def remember(self) -> None:
        """Keeps the latest predictions for the next epoch; each image comes once in an epoch."""
        index, probabilities = self.latest
        self.past[index] = probabilities
