"""A net that is its own teacher: its shallow classifiers learn from its deepest one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Temperature, Weight
from kdrun.methods.base import Outputs, Scores, Stages, Step, Teacherless, Terms, Update
from kdrun.methods.kd import soft_loss
from kdrun.models.heads import Head
from kdrun.train.metrics import measure


class SelfDistill(Teacherless):
    """Every shallow classifier i learns from the labels, from the deepest classifier C and from its feature.

    Report 3 (Chavhan), "Self distillation", after Zhang et al. 2019, "Be your own teacher", arXiv:1905.08094:
        L = CE(q_C, y) + sum_{i<C} [(1 - a) CE(q_i, y) + a T^2 KL(q_C || q_i) + b |F_i - F_C|^2],
    a = kd_weight, 1 - a = ce_weight, b = feature_weight. The printed sum runs to C, but for classifier C the last two
    terms have no teacher. Departures from the report's code: it passes probabilities to ``kl_div``, which takes
    log-probabilities, and uses no temperature, so that its second term is no divergence; it also detaches nothing. Here
    KL is the KL divergence, and the deepest classifier is not moved towards the shallow ones, as in the paper's public
    code.

    The student is a model with heads (``Head``); only its deepest classifier is kept and scored as the student.
    """

    reads: ClassVar = frozenset({"logits", "features"})

    deepest_weight: Weight = 1.0
    """Weight of the deepest classifier's cross-entropy; 1 in the report's code, 1 - a in the paper's."""
    ce_weight: Weight = 0.8
    """Weight of the shallow classifiers' cross-entropy."""
    kd_weight: Weight = 0.2
    """Weight of the KL divergence from the deepest classifier's softened distribution."""
    temperature: Temperature = 3.0
    """Temperature T of both distributions; the KL term is multiplied by T^2."""
    feature_weight: Weight = 0.5
    """Weight of the squared difference from the deepest feature."""
    feature_reduction: Literal["mean", "sum"] = "mean"
    """Reduction of the squared difference: ``mean`` over batch and elements, as in the report's code, or ``sum``, as in
    the paper's code."""
    detach_deepest: bool = True
    """Whether the deepest classifier and feature get no gradient from the terms in which they are the teacher."""

    def stages(self, exp: Experiment) -> Stages:
        heads = heads_of(exp)

        def loss(step: Step) -> Terms:
            deepest = step(exp.student)
            shallow = [head(feature) for head, feature in zip(heads, deepest.features, strict=False)]
            return self.terms(deepest, shallow, step.batch.targets)

        update = Update(exp.student.parameters(), loss)
        yield exp.stage("distill", [update], {"student": exp.student}, evaluate=lambda: self.evaluate(exp))

    def terms(self, deepest: Outputs, shallow: list[tuple[Tensor, Tensor]], labels: Tensor) -> Terms:
        """Returns the weighted terms.

        Args:
            deepest: outputs of the whole net; its last feature is the one that teaches.
            shallow: logits (N, classes) and feature of each shallow classifier.
            labels: (N,) int64.
        """
        logits, feature = deepest.logits, deepest.features[-1]
        if self.detach_deepest:
            logits, feature = logits.detach(), feature.detach()
        ce = [F.cross_entropy(own, labels) for own, _ in shallow]
        kd = [soft_loss(own, logits, self.temperature) for own, _ in shallow]
        distances = [F.mse_loss(own, feature, reduction=self.feature_reduction) for _, own in shallow]
        return {
            "ce_deepest": self.deepest_weight * F.cross_entropy(deepest.logits, labels),
            "ce": self.ce_weight * torch.stack(ce).sum(),
            "kd": self.kd_weight * self.temperature**2 * torch.stack(kd).sum(),
            "feature": self.feature_weight * torch.stack(distances).sum(),
        }

    def evaluate(self, exp: Experiment) -> Scores:
        """Returns the validation scores of all classifiers; those of the deepest count as the student's."""
        scores, deepest = self.classifiers(exp, "val"), f"classifier{len(heads_of(exp)) + 1}/"
        whole = {name.removeprefix(deepest): scores.pop(name) for name in list(scores) if name.startswith(deepest)}
        return {**whole, **scores}

    def metrics(self, exp: Experiment) -> Scores:
        return self.classifiers(exp, "test")

    @torch.no_grad()
    def classifiers(self, exp: Experiment, split: str) -> Scores:
        """Returns the scores of each classifier (1 is the shallowest), and of the mean of their probabilities."""
        heads, all_logits, all_labels = heads_of(exp), [], []
        exp.student.eval()
        for batch in exp.batches(split):
            deepest = exp.student(batch.images)
            shallow = [head(feature)[0] for head, feature in zip(heads, deepest.features, strict=False)]
            all_logits.append(torch.stack([*shallow, deepest.logits]))
            all_labels.append(batch.targets)
        logits, labels = torch.cat(all_logits, 1).float(), torch.cat(all_labels)
        ensemble = logits.softmax(2).mean(0).log()
        scores: Scores = {}
        for number, own in enumerate([*logits, ensemble], start=1):
            name = f"classifier{number}" if number <= len(logits) else "ensemble"
            scores |= {f"{name}/{score}": value for score, value in measure("classification", own, labels).items()}
        return scores


def heads_of(exp: Experiment) -> Sequence[Head]:
    """Returns the shallow classifiers of the student, one for each of its taps except the last.

    Raises:
        ConfigError: if the student has none, or not one for each of these taps.
    """
    heads: Sequence[Head] = list(getattr(exp.student.model, "heads", []))
    if not heads or not all(isinstance(head, Head) for head in heads):
        what = f"{exp.student_node['name']} has no classifiers on the way; take selfdistill4 or byot_resnet18"
        raise ConfigError("student", what)
    if len(exp.student.taps) != len(heads) + 1:
        raise ConfigError("student.taps", f"{len(exp.student.taps)} for {len(heads)} heads; needs one more than those")
    return heads
