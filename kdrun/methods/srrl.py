"""Softmax regression representation learning: the teacher's own classifier reads the student's features."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.added import last_map, penultimate
from kdrun.core.experiment import Experiment
from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, conv_bn


class SRRL(FeatureMethod):
    """feature_weight MSE(h(student), vector of the teacher) + regression_weight MSE(classifier(h(student)), logits).

    Yang, Martinez, Bulat, Tzimiropoulos 2021, ICLR, "Knowledge distillation via softmax regression representation
    learning", equations 2 and 5, the latter with squared error between logits. h is the mean over positions of a
    connector, a 1x1 convolution, batch normalization and ReLU on the student's last map; the classifier is the
    teacher's, frozen, and the logits are the teacher's. Both errors are means over all entries. The connector is then
    discarded; the student keeps its own classifier, which the labels train.
    """

    reads: ClassVar = frozenset({"logits", "classifier"})

    feature_weight: Weight = 1.0
    """Weight of the error between penultimate vectors."""
    regression_weight: Weight = 1.0
    """Weight of the error between the logits of the teacher's classifier."""

    def setup(self, exp: Experiment) -> None:
        self.student_tap, self.teacher_tap = last_map(exp, exp.student), penultimate(exp, exp.teacher)
        own, theirs = exp.classifier(exp.student, "student"), exp.classifier(exp.teacher, "teacher")
        self.classifier = (theirs,)  # in a tuple, or it would be a part of the method, and trained
        self.bridge(own.in_features, theirs.in_features)

    def bridge(self, student: int, teacher: int) -> None:
        """Makes the connector between maps of these channels; weights are normal, of variance 2 / channels."""
        conv, norm = conv_bn(student, teacher)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        self.connector = nn.Sequential(conv, norm, nn.ReLU())

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        vectors = self.connector(student.features[self.student_tap]).mean((2, 3))
        return self.errors(vectors, teacher.features[self.teacher_tap], teacher.logits)

    def errors(self, vectors: Tensor, teacher: Tensor, logits: Tensor) -> Terms:
        """Returns the weighted errors of the connected ``vectors`` (N, width of the teacher)."""
        terms = {"feature": self.feature_weight * F.mse_loss(vectors, teacher)}
        if self.regression_weight:
            terms["regression"] = self.regression_weight * F.mse_loss(self.classifier[0](vectors), logits)
        return terms
