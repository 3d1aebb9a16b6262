"""A wise student: after each step with its teacher it takes one more, on what the teacher got wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdrun.core.experiment import Experiment
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stage, Stages, Terms, Update, changed

Rule = Literal["shift", "swap", "lsr", "none"]

RARE = 0.005
"""Part of the samples below which the second step is too rare to matter."""


class WSKD(Method):
    """Two steps a batch: the base method's on all of it, then one on the samples that the teacher misclassifies.

    Lee and Paik, "Improved structure for knowledge distillation" (a proposal; they printed no result), section "Wise
    student": the second loss is ce_weight CE(labels, student) + kd_weight T^2 KL(corrected || student), a mean over
    those samples alone, of a new forward pass through the student as the first step left it. The words "modify the soft
    label of this sample to have the maximum value at true class and preserve correlation of other classes" are made
    exact by ``corrected``. Where the teacher makes no mistake this is the base method, to the last bit.

    Whether the teacher errs is asked of the view of the sample that the student sees, which costs one wait for the
    device per batch. The part of the samples on which it does is scored each epoch as ``teacher_wrong``.

    Args:
        base: the method of the first step, any whose student is taught by the teacher's outputs.
        ce_weight: of the labels, in the second step.
        kd_weight: of the corrected targets, in the second step.
        temperature: T of the second step.
        rule: how targets are corrected, see ``corrected``.
        margin: by how much ``shift`` puts the true class above all others.
        confidence: what ``lsr`` gives the true class.
        min_subset: fewer mistakes in a batch than this: no second step; ignored where mistakes are put by.
        bn: BatchNorm cannot learn from a handful of samples: of a student that has it, mistakes are put by until there
            are ``buffer`` of them (``buffer``), or it uses its running statistics in the second step and leaves them
            alone (``eval``). Nothing then bounds that step: under SGD at 0.1 ResNet-14 diverges on CIFAR-10.
        buffer: mistakes per second step, at least, where they are put by.
        separate_optimizer: whether the second step has an optimizer, with moments, of its own.
    """

    seen: Tensor
    wrong: Tensor
    count: Tensor
    images: Tensor
    labels: Tensor
    logits: Tensor
    waits: bool

    def __init__(
        self,
        base: dict[str, Any],
        ce_weight: Annotated[float, "[0, inf)"] = 0.5,
        kd_weight: Annotated[float, "[0, inf)"] = 0.5,
        temperature: Annotated[float, "(0, 1000]"] = 3.0,
        rule: Rule = "shift",
        margin: Annotated[float, "[0, 1)"] = 0.05,
        confidence: Annotated[float, "(0, 1)"] = 0.9,
        min_subset: Annotated[int, "[1, inf)"] = 1,
        bn: Literal["buffer", "eval"] = "buffer",
        buffer: Annotated[int, "[2, inf)"] = 32,
        separate_optimizer: bool = False,
    ) -> None:
        super().__init__()
        self.base = base
        self.ce_weight, self.kd_weight = ce_weight, kd_weight * temperature**2
        self.temperature = temperature
        self.rule: Rule = rule
        self.margin, self.confidence = margin, confidence
        self.min_subset, self.bn, self.buffer = min_subset, bn, buffer
        self.separate_optimizer = separate_optimizer

    def stages(self, exp: Experiment) -> Stages:
        self.lay_out(exp)
        scores = yield from changed(exp.method(self.base).stages(exp), exp, lambda stage: self.add_step(exp, stage))
        self.share = (scores or {}).get("teacher_wrong", 0.0)

    def findings(self, exp: Experiment) -> Scores:
        if self.share < RARE:
            exp.notice(f"the teacher errs on {self.share:.2%} of the training images: wskd is little but its base")
        return {"teacher_wrong_on_train": self.share}

    def lay_out(self, exp: Experiment) -> None:
        """Makes room for the counts, and for the mistakes that wait to be enough."""
        source = exp.data.source
        normed = any(isinstance(module, _BatchNorm) for module in exp.student.modules())
        self.waits = self.bn == "buffer" and normed
        room = self.buffer - 1 if self.waits else 0
        none, picture = torch.zeros((), dtype=torch.int64), (source.channels, source.size, source.size)
        made = {"seen": none, "wrong": none, "count": none, "labels": none.expand(room)}
        made |= {"images": torch.zeros(room, *picture), "logits": torch.zeros(room, source.classes)}
        for name, tensor in made.items():
            self.register_buffer(name, torch.as_tensor(tensor, device=exp.runtime.device).clone())

    def add_step(self, exp: Experiment, stage: Stage) -> None:
        """Gives ``stage`` the second step, and the score of how often it is taken."""
        first, score = stage.updates[0], stage.evaluate
        assert score is not None

        def loss(batch: Batch, teacher: Outputs) -> Terms:
            mistakes = self.mistakes(batch, teacher.logits)
            if mistakes is None:
                return {}
            images, labels, logits = mistakes
            with still(exp.student) if self.bn == "eval" else nullcontext():
                student = exp.student(images)
            return self.second(student.logits, logits, labels)

        def evaluate() -> Scores:
            share = self.wrong / self.seen.clamp(min=1)
            self.seen.zero_(), self.wrong.zero_()
            return {**score(), "teacher_wrong": share.item()}

        stage.updates.insert(1, Update(first.params, loss, first.optimizer if self.separate_optimizer else first))
        stage.evaluate = evaluate
        stage.modules["wise"] = self

    def second(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Terms:
        """Returns the terms of the second step, of logits (N, classes) for samples that the teacher got wrong."""
        soft = corrected(F.softmax(teacher / self.temperature, 1), labels, self.rule, self.margin, self.confidence)
        apart = F.kl_div(F.log_softmax(student / self.temperature, 1), soft, reduction="batchmean")
        return {"wise_ce": self.ce_weight * F.cross_entropy(student, labels), "wise_kd": self.kd_weight * apart}

    def mistakes(self, batch: Batch, logits: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Returns images, labels and the teacher's ``logits`` of a second step; None where there is none to take."""
        index = (logits.argmax(1) != batch.targets).nonzero()[:, 0]
        self.seen += len(logits)
        self.wrong += len(index)
        found = batch.images[index], batch.targets[index], logits[index].float()
        if self.waits:
            return self.collected(found)
        return found if len(index) >= self.min_subset else None

    def collected(self, found: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor] | None:
        """Returns all mistakes put by, and those ``found``, if they are enough by now; else puts these by too."""
        kept, waiting = (self.images, self.labels, self.logits), int(self.count)
        images, labels, logits = (torch.cat([old[:waiting], new]) for old, new in zip(kept, found, strict=True))
        if len(labels) >= self.buffer:
            self.count.zero_()
            return images, labels, logits
        for old, new in zip(kept, (images, labels, logits), strict=True):
            old[: len(new)] = new
        self.count.fill_(len(labels))
        return None


def corrected(soft: Tensor, labels: Tensor, rule: Rule, margin: float, confidence: float) -> Tensor:
    """Returns targets (N, classes) with most probability on the true class, rows summing to 1.

    Args:
        soft: the teacher's probabilities (N, classes), which put another class first.
        labels: the true classes (N,).
        rule: ``shift`` raises the true class to ``margin`` above all others and scales these down by one factor, so
            that their ratios stay; ``swap`` exchanges the true class with the first (Wen et al. 2019,
            arXiv:1911.07471, "probability shift"); ``lsr`` gives the true class ``confidence`` and all others the
            same; ``none`` leaves the teacher's mistake. The last two are controls.
        margin: of ``shift``.
        confidence: of ``lsr``.
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
def still(model: nn.Module) -> Iterator[None]:
    """Lets every BatchNorm of ``model`` use its running statistics, and leave them as they are."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
