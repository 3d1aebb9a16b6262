"""A comprehensive overhaul of feature distillation: maps before their ReLU, and a distance that knows of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdrun.core.added import preactivation, role
from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, conv_bn, map_pairs, maps, same_size


class OFD(FeatureMethod):
    """ofd_weight times the partial squared distances of maps before their ReLU, deeper ones weighing more.

    Heo et al. 2019, arXiv:1904.01866, equations 1 to 4. The teacher's map t passes the margin ReLU max(t, m); m of a
    channel is the mean of its negative values, as its batch normalization has them: E[x | x < 0] for a normal x of mean
    beta and standard deviation |gamma|. The student's map s passes a 1x1 convolution with batch normalization, which is
    then discarded. (s - t)^2 counts where s > t or t > 0: below, the student may be as negative as it likes. It is
    summed over a sample, a mean over the batch, and halved from each pair of maps to the shallower one.

    Departure: the teacher is frozen in eval mode; in the authors' code its batch normalization drifts. Of two maps of
    unequal size the larger is average-pooled.
    """

    ofd_weight: Weight = 0.001
    """Weight of the distances; 0.0001 on ImageNet."""

    def setup(self, exp: Experiment) -> None:
        self.before, self.norms = {}, {}
        for model in (exp.student, exp.teacher):
            name = role(exp, model)
            places = {tap: preactivation(exp, model, tap) for tap in maps(exp.shapes(model), name)}
            self.before[name] = {tap: place.number for tap, place in places.items()}
            self.norms = {tap: place.norm for tap, place in places.items()}  # in the end the teacher's

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        pairs = map_pairs(student, teacher)
        self.pairs = [(self.before["student"][own], self.before["teacher"][theirs]) for own, theirs in pairs]
        self.connectors = nn.ModuleList(
            nn.Sequential(*conv_bn(student[own][1], teacher[theirs][1])) for own, theirs in pairs
        )
        for number, (_, theirs) in enumerate(pairs):
            self.register_buffer(f"margin{number}", margins(self.norms[theirs]))
        self.norms = {}  # of the teacher, no part of this method

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        maps = [(student.features[own], teacher.features[theirs]) for own, theirs in self.pairs]
        return {"ofd": self.ofd_weight * self.distance(*zip(*maps, strict=True))}

    def distance(self, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
        """Returns the distance of the maps before their ReLU, from shallow to deep."""
        distances = []
        for number, (connector, own, theirs) in enumerate(zip(self.connectors, student, teacher, strict=True)):
            s, t = same_size(connector(own), theirs)
            share = 0.5 ** (len(student) - number - 1)
            distances.append(share * partial_distance(s, t, getattr(self, f"margin{number}")) / len(own))
        return torch.stack(distances).sum()


def margins(norm: nn.Module | None) -> Tensor:
    """Returns the margin (C, 1, 1) of each channel behind ``norm``, a teacher's batch normalization.

    A channel that is hardly ever negative has -3 |gamma|, as in the authors' code.

    Raises:
        ConfigError: if there is no batch normalization.
    """
    if not isinstance(norm, nn.BatchNorm2d):
        raise ConfigError("teacher.taps", "a tapped map has no batch normalization before it; the method needs one")
    mean, deviation = norm.bias.detach().double(), norm.weight.detach().double().abs()
    ratio = mean / deviation.clamp_min(1e-30)
    below = torch.special.ndtr(-ratio)
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    margin = mean - deviation * density / below.clamp_min(1e-30)
    return torch.where(below > 0.001, margin, -3 * deviation).type(norm.weight.dtype)[:, None, None]


def partial_distance(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Returns the sum of (student - max(teacher, margin))^2, where the student is larger or the teacher above 0."""
    target = torch.maximum(teacher, margin)
    return ((student - target).square() * ((student > target) | (target > 0))).sum()
