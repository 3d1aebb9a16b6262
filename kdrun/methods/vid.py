"""Variational information distillation: the student's maps should predict the teacher's, channel by channel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.methods.arguments import Positive, Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, map_pairs, same_size


class VID(FeatureMethod):
    """vid_weight times -log q(teacher's map | student's map), summed over the pairs of tapped maps.

    Ahn et al. 2019, arXiv:1904.05835, equations 5 and 6: q is a Gaussian. Its mean comes from the student's map through
    three 1x1 convolutions with ReLU between them; its variance is one learned number per channel,
    softplus(a) + ``min_variance``. The term is the mean over all entries of ½ (squared error / variance + log
    variance). Both parts learn with the student and are then discarded. Of two maps of unequal size the larger is
    average-pooled.
    """

    vid_weight: Weight = 1.0
    """Weight of the likelihood."""
    variance: Positive = 5.0
    """Variance at the beginning."""
    min_variance: Positive = 1e-5
    """Least variance."""

    def __post_init__(self) -> None:
        if self.variance <= self.min_variance:
            raise ValueError(f"variance={self.variance} is not above min_variance={self.min_variance}")

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.pairs = map_pairs(student, teacher)
        channels = [(student[own][1], teacher[theirs][1]) for own, theirs in self.pairs]
        self.likelihoods = nn.ModuleList(Likelihood(*pair, self.variance, self.min_variance) for pair in channels)

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        pairs = [(student.features[own], teacher.features[theirs]) for own, theirs in self.pairs]
        distances = [likelihood(*pair) for likelihood, pair in zip(self.likelihoods, pairs, strict=True)]
        return {"vid": self.vid_weight * torch.stack(distances).sum()}


class Likelihood(nn.Module):
    """The negative log-likelihood of the teacher's map under the student's, without its constant.

    Args:
        inputs: channels of the student's map.
        outputs: channels of the teacher's map.
        variance: the variance at the beginning.
        least: the least variance.
    """

    def __init__(self, inputs: int, outputs: int, variance: float, least: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )
        self.raw = nn.Parameter(torch.full((outputs,), math.log(math.expm1(variance - least))))
        self.least = least

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        own, theirs = same_size(student, teacher)
        variance = (F.softplus(self.raw) + self.least)[:, None, None]
        entries: Tensor = (self.mean(own) - theirs).square() / variance + variance.log()
        return 0.5 * entries.mean()
