"""Activation boundaries: which neurons are active is learned first, then the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kdrun.core.added import preactivation, role
from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Positive, Weight
from kdrun.methods.feature import Batch, InitMethod, Outputs, Terms, map_pairs, maps
from kdrun.methods.hint_joint import bn_relu, fits


class AB(InitMethod):
    """A stage for the boundaries of activation, ab_weight times their distance, then one for the labels.

    Heo et al. 2019, arXiv:1811.03233, equations 4 to 6. Of maps before their ReLU, the teacher's t has a neuron active
    where t > 0. The student's s, through a connector, must be beyond the margin on that side:

        (s + margin)^2 where s > -margin and t <= 0, (s - margin)^2 where s <= margin and t > 0, else 0,

    summed over a sample, a mean over the batch, halved from each pair of maps to the shallower one. The connector is a
    convolution with batch normalization, or nothing between maps of one shape. In the second stage the student is
    trained by the labels, as in the CRD benchmark; the authors add soft targets, kd_weight above 0 and T = 3.
    """

    ab_weight: Weight = 0.003
    """Weight of the boundaries, 3/1000 as in the authors' code."""
    margin: Positive = 1.0
    """Margin on both sides of a boundary."""

    def setup(self, exp: Experiment) -> None:
        self.before = {}
        for model in (exp.student, exp.teacher):
            name = role(exp, model)
            numbers = maps(exp.shapes(model), name)
            self.before[name] = {tap: preactivation(exp, model, tap).number for tap in numbers}

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        pairs = map_pairs(student, teacher)
        self.pairs = [(self.before["student"][own], self.before["teacher"][theirs]) for own, theirs in pairs]
        self.connectors = nn.ModuleList(connector(student[own], teacher[theirs]) for own, theirs in pairs)

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        distances = []
        for number, (connect, (own, theirs)) in enumerate(zip(self.connectors, self.pairs, strict=True)):
            s, t = connect(student.features[own]), teacher.features[theirs]
            share = 0.5 ** (len(self.pairs) - number - 1)
            distances.append(share * boundary_distance(s, t, self.margin) / len(s))
        return {"ab": self.ab_weight * torch.stack(distances).sum()}


def connector(guided: torch.Size, hint: torch.Size) -> nn.Module:
    """Returns the connector between maps of these shapes: a convolution with batch normalization, or nothing.

    Raises:
        ConfigError: if no convolution leads from one size to the other.
    """
    if guided == hint:
        return nn.Identity()
    if not fits(guided, hint, "bn_relu"):
        sizes = " and the teacher's ".join(f"{shape[2]}x{shape[3]}" for shape in (guided, hint))
        raise ConfigError("student.taps", f"no convolution leads between maps of {sizes}; tap others")
    return bn_relu(guided, hint)[:2]


def boundary_distance(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    """Returns the sum of the squared distances of neurons that are on the wrong side of the teacher's boundary."""
    active = teacher > 0
    too_high = (student + margin).square() * ((student > -margin) & ~active)
    too_low = (student - margin).square() * ((student <= margin) & active)
    return (too_high + too_low).sum()
