"""Contrastive representation distillation: a sample's two vectors should match among many others."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.methods.arguments import Temperature, Weight, Width
from kdrun.methods.feature import Batch, Outputs, Terms
from kdrun.methods.relation import RelationMethod

EPSILON = 1e-7
"""Added to the denominators, as in the authors' code."""


class CRD(RelationMethod):
    """crd_weight times the contrastive loss of student against teacher, plus that of teacher against student.

    Tian, Krishnan, Isola 2020, arXiv:1910.10699, equations 17 to 19. Both penultimate vectors go through a learned
    linear layer to ``width`` dimensions, and are divided by their L2 norm. A bank remembers such a vector of every
    training image, for each net. With n images and K negatives, the student's vector v and the teacher's remembered w
    have the score P = exp(v w / tau) / Z, where Z makes the mean score of the first batch 1 / n; then

        loss = -log P / (P + K / n) - sum over negatives of log (K / n) / (P' + K / n), a mean over the batch,

    and the same with student and teacher exchanged. Negatives are of other classes (``exact``) or any other images
    (``relax``). After the step the batch's vectors enter the banks, averaged with the old ones.

    Departures: negatives are drawn with replacement also where there are enough without. All scores of a batch are
    computed at once, which costs less than to gather K vectors for each sample.
    """

    crd_weight: Weight = 0.8
    """Weight of the contrastive losses."""
    negatives: Annotated[int, "[1, inf)"] = 16384
    """Number K of negatives for each sample."""
    mode: Literal["exact", "relax"] = "exact"
    """Images that serve as negatives: those of other classes, or any."""
    tau: Temperature = 0.07
    """Temperature of the scores."""
    momentum: Annotated[float, "[0, 1)"] = 0.5
    """Share of the old vector when a new one enters the bank."""
    width: Width = 128
    """Dimensions of the vectors."""

    def setup(self, exp: Experiment) -> None:
        super().setup(exp)
        own, theirs = exp.classifier(exp.student, "student"), exp.classifier(exp.teacher, "teacher")
        self.embed(own.in_features, theirs.in_features)
        split = exp.data.subset if exp.plan.subset else exp.data.train
        labels = torch.as_tensor(split.targets, device=exp.runtime.device)
        self.keep(Bank(torch.arange(split.size, device=labels.device), labels, split.size, self.width))

    def embed(self, student: int, teacher: int) -> None:
        """Makes the linear layers for vectors of these widths."""
        self.student_layer, self.teacher_layer = nn.Linear(student, self.width), nn.Linear(teacher, self.width)

    def keep(self, bank: Bank) -> None:
        """Sets the bank; in a tuple, because a part of the method would be copied with every best epoch."""
        self.banks = (bank,)
        self.latest: tuple[Tensor, ...] = ()

    def memory(self) -> nn.Module:
        return self.banks[0]

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        negatives = self.banks[0].draw(batch.targets, self.negatives, self.mode == "exact")
        contrast = torch.cat([batch.index[:, None], negatives], 1)
        vectors = student.features[self.student_tap], teacher.features[self.teacher_tap]
        return {"crd": self.crd_weight * self.contrast(*vectors, contrast)}

    def contrast(self, student: Tensor, teacher: Tensor, contrast: Tensor) -> Tensor:
        """Returns the sum of the two contrastive losses.

        Args:
            student: the student's vectors (N, width of the student).
            teacher: the teacher's vectors (N, width of the teacher).
            contrast: places in the banks (N, 1 + K): of the sample itself, then of its negatives.
        """
        bank = self.banks[0]
        own, theirs = F.normalize(self.student_layer(student)), F.normalize(self.teacher_layer(teacher))
        scores = [
            (vectors @ remembered.T / self.tau).gather(1, contrast)
            for vectors, remembered in ((own, bank.teacher), (theirs, bank.student))
        ]
        first = torch.stack([score.detach().logsumexp((0, 1)) - math.log(score.numel()) for score in scores])
        constants = torch.where(bank.steps > 0, bank.log_constants, first + math.log(bank.size))
        self.latest = contrast[:, 0], own.detach(), theirs.detach(), constants
        losses = [contrastive(score - log_z, bank.size) for score, log_z in zip(scores, constants, strict=True)]
        return torch.stack(losses).sum()

    def after_step(self) -> None:
        places, own, theirs, constants = self.latest
        self.banks[0].enter(places, own, theirs, constants, self.momentum)


class Bank(nn.Module):
    """The vectors (places, width) that are remembered of student and teacher, and log Z of both losses.

    Args:
        places: the places (N,) of the training images, as ``Batch.index`` has them.
        labels: their classes (N,).
        count: the number of places, of which some may belong to no training image.
        width: dimensions of a vector.
    """

    student: Tensor
    teacher: Tensor
    log_constants: Tensor
    steps: Tensor

    def __init__(self, places: Tensor, labels: Tensor, count: int, width: int) -> None:
        super().__init__()
        self.size = len(places)  # n, the number of training images
        bound = (width / 3) ** -0.5
        for name in ("student", "teacher"):
            initial = torch.empty(count, width).uniform_(-bound, bound)
            self.register_buffer(name, torch.as_tensor(initial, device=places.device))
        self.register_buffer("log_constants", torch.zeros(2, device=places.device))
        self.register_buffer("steps", torch.zeros((), device=places.device))  # the constants are of the first
        order = labels.argsort(stable=True)
        self.by_class = places[order]
        self.counts = torch.bincount(labels)
        self.begins = self.counts.cumsum(0) - self.counts

    def draw(self, targets: Tensor, number: int, of_others: bool) -> Tensor:
        """Returns the places (N, number) of random images, with replacement; those of other classes if ``of_others``.

        Images are ordered by class, so that those of other classes are all but one interval. If all images are of one
        class, there are no others, and any are drawn.
        """
        own, begins = self.counts[targets][:, None], self.begins[targets][:, None]
        own = torch.where((own < self.size) & of_others, own, 0)
        uniform = torch.rand(len(targets), number, device=targets.device, dtype=torch.float64)
        position = (uniform * (self.size - own)).long().clamp_max(self.size - 1)
        return self.by_class[position + torch.where(position >= begins, own, 0)]

    def enter(self, places: Tensor, student: Tensor, teacher: Tensor, constants: Tensor, momentum: float) -> None:
        """Averages vectors (N, width) into those at ``places``, and sets the constants."""
        for bank, vectors in ((self.student, student), (self.teacher, teacher)):
            mixed = momentum * bank[places] + (1 - momentum) * vectors.type(bank.dtype)
            bank[places] = F.normalize(mixed)
        self.log_constants.copy_(constants)
        self.steps += 1


def contrastive(scores: Tensor, size: int) -> Tensor:
    """Returns the contrastive loss of log P, ``scores`` (N, 1 + K); the first column is of the sample itself."""
    noise = (scores.shape[1] - 1) / size
    sums = torch.logaddexp(scores, scores.new_tensor(noise + EPSILON).log())
    return -((scores - sums)[:, 0].sum() + (math.log(noise) - sums)[:, 1:].sum()) / len(scores)
