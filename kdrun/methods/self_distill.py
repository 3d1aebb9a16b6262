"""A net that is its own teacher: its shallow classifiers learn from its deepest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stages, Terms, Update
from kdrun.methods.kd import soft_loss
from kdrun.models.heads import Head
from kdrun.train.metrics import measure


class SelfDistill(Method):
    """Every shallow classifier i learns from the labels, from the deepest classifier C and from its feature.

    Report 3 (Chavhan), "Self distillation", after Zhang et al. 2019, "Be your own teacher", arXiv:1905.08094:
        L = CE(q_C, y) + sum_{i<C} [(1 - a) CE(q_i, y) + a T^2 KL(q_C || q_i) + b |F_i - F_C|^2],
    a = kd_weight, 1 - a = ce_weight, b = feature_weight. The sum as printed runs to C, which its own two terms would
    leave without a teacher. Departures from the report's code: it gives ``kl_div`` probabilities where that takes
    log-probabilities, without temperature, so that its second term is no divergence, and detaches nothing; here KL is
    KL, and the deepest classifier, as in the paper's public code, is not drawn towards the shallow ones.

    The student is a model with heads (``Head``); what is kept of it, and its score, is its deepest classifier alone.

    Args:
        deepest_weight: of the deepest classifier's cross-entropy; 1 in the report's code, 1 - a in the paper's.
        ce_weight: of the shallow classifiers' cross-entropy.
        kd_weight: of the deepest classifier's softened distribution.
        temperature: T of both distributions; the term is multiplied by T^2.
        feature_weight: of the squared difference from the deepest feature.
        feature_reduction: ``mean`` over batch and elements, as in the report's code; ``sum``, as in the paper's.
        detach_deepest: whether the deepest classifier and feature get no gradient from what they teach.
    """

    needs_teacher = False

    def __init__(
        self,
        deepest_weight: Annotated[float, "[0, inf)"] = 1.0,
        ce_weight: Annotated[float, "[0, inf)"] = 0.8,
        kd_weight: Annotated[float, "[0, inf)"] = 0.2,
        temperature: Annotated[float, "(0, 1000]"] = 3.0,
        feature_weight: Annotated[float, "[0, inf)"] = 0.5,
        feature_reduction: Literal["mean", "sum"] = "mean",
        detach_deepest: bool = True,
    ) -> None:
        super().__init__()
        self.deepest_weight, self.ce_weight = deepest_weight, ce_weight
        self.kd_weight, self.temperature = kd_weight * temperature**2, temperature
        self.feature_weight, self.feature_reduction = feature_weight, feature_reduction
        self.detach_deepest = detach_deepest

    def stages(self, exp: Experiment) -> Stages:
        heads = heads_of(exp)

        def loss(batch: Batch, given: None) -> Terms:
            deepest = exp.student(batch.images)
            said = [head(feature) for head, feature in zip(heads, deepest.features, strict=False)]
            return self.terms(deepest, said, batch.targets)

        update = Update(exp.student.parameters(), loss)
        yield exp.stage("distill", [update], {"student": exp.student}, evaluate=lambda: self.evaluate(exp))

    def terms(self, deepest: Outputs, said: list[tuple[Tensor, Tensor]], labels: Tensor) -> Terms:
        """Returns the weighted terms.

        Args:
            deepest: of the whole net; its last feature is the one that teaches.
            said: logits (N, classes) and feature of each shallow classifier.
            labels: (N,) int64.
        """
        logits, feature = deepest.logits, deepest.features[-1]
        if self.detach_deepest:
            logits, feature = logits.detach(), feature.detach()
        ce = [F.cross_entropy(own, labels) for own, _ in said]
        kd = [soft_loss(own, logits, self.temperature) for own, _ in said]
        apart = [F.mse_loss(own, feature, reduction=self.feature_reduction) for _, own in said]
        return {
            "ce_deepest": self.deepest_weight * F.cross_entropy(deepest.logits, labels),
            "ce": self.ce_weight * torch.stack(ce).sum(),
            "kd": self.kd_weight * torch.stack(kd).sum(),
            "feature": self.feature_weight * torch.stack(apart).sum(),
        }

    def evaluate(self, exp: Experiment) -> Scores:
        """Returns the validation scores of the deepest classifier as the student's, and those of the others."""
        found, deepest = self.classifiers(exp, "val"), f"classifier{len(heads_of(exp)) + 1}/"
        whole = {name.removeprefix(deepest): found.pop(name) for name in list(found) if name.startswith(deepest)}
        return {**whole, **found}

    def findings(self, exp: Experiment) -> Scores:
        return self.classifiers(exp, "test")

    @torch.no_grad()
    def classifiers(self, exp: Experiment, split: str) -> Scores:
        """Returns the scores of each classifier, 1 the shallowest, and of the mean of their probabilities."""
        heads, all_logits, all_labels = heads_of(exp), [], []
        exp.student.eval()
        for batch in exp.batches(split):
            deepest = exp.student(batch.images)
            shallow = [head(feature)[0] for head, feature in zip(heads, deepest.features, strict=False)]
            all_logits.append(torch.stack([*shallow, deepest.logits]))
            all_labels.append(batch.targets)
        logits, labels = torch.cat(all_logits, 1).float(), torch.cat(all_labels)
        ensemble = logits.softmax(2).mean(0).log()
        found: Scores = {}
        for place, own in enumerate([*logits, ensemble], start=1):
            name = f"classifier{place}" if place <= len(logits) else "ensemble"
            found |= {f"{name}/{score}": value for score, value in measure("classification", own, labels).items()}
        return found


def heads_of(exp: Experiment) -> Sequence[Head]:
    """Returns the shallow classifiers of the student, one for each of its taps but the last.

    Raises:
        ConfigError: if it has none, or not as many.
    """
    heads: Sequence[Head] = list(getattr(exp.student.model, "heads", []))
    if not heads or not all(isinstance(head, Head) for head in heads):
        what = f"{exp.student_node['name']} has no classifiers on the way; take selfdistill4 or byot_resnet18"
        raise ConfigError("student", what)
    if len(exp.student.taps) != len(heads) + 1:
        raise ConfigError("student.taps", f"{len(exp.student.taps)} for {len(heads)} heads; needs one more than those")
    return heads
