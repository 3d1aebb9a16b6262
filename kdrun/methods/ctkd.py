"""A curriculum of temperatures: one that is learned against the student, at first gently, then in full."""

from __future__ import annotations

import math
from copy import copy
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor, nn

from kdrun.errors import ConfigError
from kdrun.methods.arguments import Positive, Temperature
from kdrun.methods.base import Batch, HardAndSoft, Scores, Terms
from kdrun.methods.wrapper import Wrapper

if TYPE_CHECKING:
    from kdrun.core.experiment import Experiment


class CTKD(Wrapper):
    """The base method at a temperature T = t_min + t_range sigmoid(theta), which goes up the soft part's slope.

    Li et al. 2023, arXiv:2211.16231, "Curriculum temperature for knowledge distillation", the global form, which alone
    is in the authors' code: theta is one number, 1 at the start, in the student's optimizer, weight decay included. Its
    gradient is that of the loss times lambda, which falls from 0 to -1 as half a cosine over the first epochs, so that
    the task becomes harder little by little. Where the base has a factor T^2, theta feels it. Of the base, only its
    ``temperature`` is replaced. The step of theta grows with the weight of the soft part.
    """

    t_min: Temperature = 1.0
    """Temperature that T stays above."""
    t_range: Positive = 20.0
    """Width of the range of T."""
    decay_epochs: Annotated[int, "[1, 100000]"] = 10
    """Epochs over which lambda falls to -1."""

    def setup(self, exp: Experiment) -> None:
        super().setup(exp)
        if not hasattr(self.inner, "temperature"):
            what = f"{self.base.get('name', self.base['_target_'])} has no temperature that could be learned"
            raise ConfigError("method.base", f"{what}; choose a method that has one, such as kd or dkd")
        self.theta = nn.Parameter(torch.ones(()))

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        reversal = -(1 - math.cos(math.pi * min(batch.epoch / self.decay_epochs, 1.0))) / 2
        theta = reversal * self.theta + (1 - reversal) * self.theta.detach()
        return at(self.inner, self.temperature(theta)).soft(student, teacher, batch)

    def temperature(self, theta: Tensor) -> Tensor:
        """Returns the temperature for ``theta``."""
        return self.t_min + self.t_range * torch.sigmoid(theta)

    def metrics(self, exp: Experiment) -> Scores:
        return {**super().metrics(exp), "temperature": self.temperature(self.theta).item()}


def at(method: HardAndSoft, temperature: Tensor) -> HardAndSoft:
    """Returns ``method`` at another temperature; the two share all parameters."""
    method = copy(method)
    vars(method)["temperature"] = temperature
    return method
