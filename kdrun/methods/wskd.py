"""A wise student: after each step with its teacher it takes a second one on the teacher's mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import field
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdrun.core.experiment import Experiment
from kdrun.methods.arguments import MethodNode, Temperature, Weight
from kdrun.methods.base import Batch, Method, Scores, Stage, Stages, Step, Terms, Update, adapted

Rule = Literal["shift", "swap", "lsr", "none"]
Mistakes = tuple[Tensor, Tensor, Tensor]
"""Images, labels and the teacher's logits of samples that the teacher got wrong."""

RARE = 0.005
"""If the teacher errs on a smaller fraction of the samples than this, the second step is too rare to matter."""


class WSKD(Method):
    """Two steps per batch: the base method's on the whole batch, then one on the samples that the teacher
    misclassifies.

    Lee and Paik, "Improved structure for knowledge distillation" (a proposal; they printed no result), section "Wise
    student": the second loss is ce_weight CE(labels, student) + kd_weight T^2 KL(corrected || student), a mean over
    those samples only, from a new forward pass through the student after the first step. The words "modify the soft
    label of this sample to have the maximum value at true class and preserve correlation of other classes" are made
    exact by ``corrected``. If the teacher makes no mistake, this is the base method, to the last bit.

    Whether the teacher errs is decided on the view of the sample that the student sees, which costs one wait for the
    device per batch. The fraction of the samples on which it errs is a score of each epoch, ``teacher_wrong``.
    """

    base: MethodNode
    """Method of the first step; any method whose student is taught by the teacher's outputs."""
    ce_weight: Weight = 0.5
    """Weight of the cross-entropy with the labels, in the second step."""
    kd_weight: Weight = 0.5
    """Weight of the corrected targets, in the second step."""
    temperature: Temperature = 3.0
    """Temperature T of the second step."""
    rule: Rule = "shift"
    """Rule by which targets are corrected, see ``corrected``."""
    margin: Annotated[float, "[0, 1)"] = 0.05
    """Margin by which ``shift`` raises the true class above all others."""
    confidence: Annotated[float, "(0, 1)"] = 0.9
    """Probability that ``lsr`` gives the true class."""
    min_subset: Annotated[int, "[1, inf)"] = 1
    """Least number of mistakes in a batch for a second step; ignored if mistakes are buffered."""
    bn: Literal["buffer", "eval"] = "buffer"
    """Treatment of BatchNorm, which cannot learn from a few samples. ``buffer``: for a student with BatchNorm, mistakes
    are buffered until there are ``buffer`` of them. ``eval``: in the second step BatchNorm uses its running statistics
    and does not change them. Nothing then bounds that step: under SGD at 0.1 ResNet-14 diverges on CIFAR-10."""
    buffer: Annotated[int, "[2, inf)"] = 32
    """Least number of mistakes in a second step, if they are buffered."""
    separate_optimizer: bool = False
    """Whether the second step has its own optimizer, with its own moments."""

    seen: Tensor = field(init=False)
    wrong: Tensor = field(init=False)
    count: Tensor = field(init=False)
    images: Tensor = field(init=False)
    labels: Tensor = field(init=False)
    logits: Tensor = field(init=False)

    def stages(self, exp: Experiment) -> Stages:
        self.setup(exp)
        scores = yield from adapted(exp.method(self.base).stages(exp), exp, lambda stage: self.add_step(exp, stage))
        self.share = (scores or {}).get("teacher_wrong", 0.0)

    def metrics(self, exp: Experiment) -> Scores:
        if self.share < RARE:
            exp.notice(f"the teacher errs on {self.share:.2%} of the training images: wskd is little but its base")
        return {"teacher_wrong_on_train": self.share}

    def setup(self, exp: Experiment) -> None:
        """Creates the buffers for the counts, and for the mistakes that wait for a second step."""
        source = exp.data.source
        normed = any(isinstance(module, _BatchNorm) for module in exp.student.modules())
        self.waits = self.bn == "buffer" and normed
        room = self.buffer - 1 if self.waits else 0
        zero, image = torch.zeros((), dtype=torch.int64), (source.channels, source.size, source.size)
        buffers = {"seen": zero, "wrong": zero, "count": zero, "labels": zero.expand(room)}
        buffers |= {"images": torch.zeros(room, *image), "logits": torch.zeros(room, source.classes)}
        for name, tensor in buffers.items():
            self.register_buffer(name, torch.as_tensor(tensor, device=exp.runtime.device).clone())

    def add_step(self, exp: Experiment, stage: Stage) -> None:
        """Adds to ``stage`` the second step, and the score ``teacher_wrong``."""
        first, score, teacher = stage.updates[0], stage.evaluate, stage.teacher
        assert score is not None and teacher is not None  # the stage has the task's scores, and a teacher

        def loss(step: Step) -> Terms:
            mistakes = self.mistakes(step.batch, step(teacher).logits)
            if mistakes is None:
                return {}
            images, labels, logits = mistakes
            with frozen_batchnorm(exp.student) if self.bn == "eval" else nullcontext():
                student = exp.student(images)
            return self.second(student.logits, logits, labels)

        def evaluate() -> Scores:
            share = self.wrong / self.seen.clamp(min=1)
            self.seen.zero_(), self.wrong.zero_()
            return {**score(), "teacher_wrong": share.item()}

        stage.updates.insert(1, Update(first.params, loss, first.optimizer if self.separate_optimizer else first))
        stage.evaluate = evaluate
        stage.add("wise", self)

    def second(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Terms:
        """Returns the terms of the second step, from logits (N, classes) for samples that the teacher got wrong."""
        soft = corrected(F.softmax(teacher / self.temperature, 1), labels, self.rule, self.margin, self.confidence)
        distance = F.kl_div(F.log_softmax(student / self.temperature, 1), soft, reduction="batchmean")
        weight = self.kd_weight * self.temperature**2
        return {"wise_ce": self.ce_weight * F.cross_entropy(student, labels), "wise_kd": weight * distance}

    def mistakes(self, batch: Batch, logits: Tensor) -> Mistakes | None:
        """Returns the mistakes for a second step, by the teacher's ``logits``; None if there is no such step."""
        index = (logits.argmax(1) != batch.targets).nonzero()[:, 0]
        self.seen += len(logits)
        self.wrong += len(index)
        mistakes = batch.images[index], batch.targets[index], logits[index].float()
        if self.waits:
            return self.collected(mistakes)
        return mistakes if len(index) >= self.min_subset else None

    def collected(self, new: Mistakes) -> Mistakes | None:
        """Returns all buffered mistakes and the ``new`` ones if they are enough; else buffers the new ones too."""
        buffers, waiting = (self.images, self.labels, self.logits), int(self.count)
        images, labels, logits = (torch.cat([old[:waiting], more]) for old, more in zip(buffers, new, strict=True))
        if len(labels) >= self.buffer:
            self.count.zero_()
            return images, labels, logits
        for old, whole in zip(buffers, (images, labels, logits), strict=True):
            old[: len(whole)] = whole
        self.count.fill_(len(labels))
        return None


def corrected(soft: Tensor, labels: Tensor, rule: Rule, margin: float, confidence: float) -> Tensor:
    """Returns targets (N, classes) with the largest probability on the true class, rows summing to 1.

    Args:
        soft: the teacher's probabilities (N, classes), in which another class is the largest.
        labels: the true classes (N,).
        rule: ``shift`` raises the true class to ``margin`` above all others and scales these down by one factor, which
            keeps their ratios; ``swap`` exchanges the true class with the largest (Wen et al. 2019, arXiv:1911.07471,
            "probability shift"); ``lsr`` gives the true class ``confidence`` and all others an equal share; ``none``
            keeps the teacher's mistake. The last two are controls.
        margin: margin of ``shift``.
        confidence: probability of the true class in ``lsr``.
    """
    label = labels[:, None]
    true, first = soft.gather(1, label), soft.max(1, keepdim=True)
    if rule == "none":
        return soft
    if rule == "lsr":
        return torch.full_like(soft, (1 - confidence) / (soft.shape[1] - 1)).scatter(1, label, confidence)
    if rule == "swap":
        return soft.scatter(1, first.indices, true).scatter(1, label, first.values)
    raised = (first.values + margin * (1 - true)) / (1 - true + first.values)
    return (soft * (1 - raised) / (1 - true)).scatter(1, label, raised)


@contextmanager
def frozen_batchnorm(model: nn.Module) -> Iterator[None]:
    """Makes every BatchNorm of ``model`` use its running statistics without changing them."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
