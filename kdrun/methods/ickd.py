"""Inter-channel correlation: the student's channels correlate with one another as the teacher's do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, conv_bn, last_maps


class ICKD(FeatureMethod):
    """ickd_weight ||G_student - G_teacher||_F^2 / channels, a mean over the batch, on the last tapped maps.

    Liu et al. 2021, ICCV, "Exploring inter-channel correlation for diversity-preserved knowledge distillation", the
    form for classification (ICKD-C): G is the matrix of the products of all pairs of channels of a sample, each row
    divided by its L2 norm. A 1x1 convolution with batch normalization, discarded after training, brings the student's
    map to the teacher's channels. The maps may be of any two sizes.
    """

    ickd_weight: Weight = 2.5
    """Weight of the correlations."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.student_tap, self.teacher_tap = last_maps(student, teacher)
        self.connector = nn.Sequential(*conv_bn(student[self.student_tap][1], teacher[self.teacher_tap][1]))

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        own = correlations(self.connector(student.features[self.student_tap]))
        theirs = correlations(teacher.features[self.teacher_tap])
        return {"ickd": self.ickd_weight * (own - theirs).square().sum() / own.shape[1] / len(own)}


def correlations(maps: Tensor) -> Tensor:
    """Returns the correlations (N, C, C) of the channels of ``maps`` (N, C, H, W); the rows have norm 1."""
    flat = maps.flatten(2)
    return F.normalize(flat @ flat.mT, dim=2)
