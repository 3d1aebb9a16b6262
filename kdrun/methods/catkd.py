"""Class attention transfer: where the student sees each class becomes where the teacher sees it."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.added import last_map
from kdrun.core.experiment import Experiment
from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms


class CATKD(FeatureMethod):
    """catkd_weight times the mean squared distance of the class activation maps, pooled to a small resolution.

    Guo et al. 2023, arXiv:2304.12777, equations 4 to 6. The map of a class is the net's classifier at each position of
    the last map, before that is pooled; it is average-pooled to ``resolution`` x ``resolution`` and divided by its L2
    norm over positions. The authors replace the linear layer by a 1x1 convolution, which is the same; here any net
    serves whose classifier takes the mean of a map. The student's classifier learns from this term too.
    """

    reads: ClassVar = frozenset({"logits", "classifier"})

    catkd_weight: Weight = 15.0
    """Weight of the class activation maps."""
    resolution: Annotated[int, "[1, 64]"] = 2
    """Positions along each side of the pooled maps."""

    def setup(self, exp: Experiment) -> None:
        self.student_tap, self.teacher_tap = last_map(exp, exp.student), last_map(exp, exp.teacher)
        # in a tuple, or the classifiers would be parts of the method, and the teacher's would be trained
        self.classifiers = exp.classifier(exp.student, "student"), exp.classifier(exp.teacher, "teacher")

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        own = class_maps(student.features[self.student_tap], self.classifiers[0])
        theirs = class_maps(teacher.features[self.teacher_tap], self.classifiers[1])
        return {"catkd": self.catkd_weight * distance(own, theirs, self.resolution)}


def class_maps(maps: Tensor, classifier: nn.Linear) -> Tensor:
    """Returns the logits (N, classes, H, W) at each position of ``maps`` (N, C, H, W)."""
    return F.conv2d(maps, classifier.weight[:, :, None, None], classifier.bias)


def distance(student: Tensor, teacher: Tensor, resolution: int) -> Tensor:
    """Returns the mean squared distance of two nets' class maps, pooled and of norm 1."""
    own, theirs = (F.adaptive_avg_pool2d(maps, resolution).flatten(2) for maps in (student, teacher))
    return F.mse_loss(F.normalize(own, dim=2), F.normalize(theirs, dim=2))
