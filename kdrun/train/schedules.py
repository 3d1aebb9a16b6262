"""Schedules: a factor of the learning rate as a function of the progress of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated


class Constant:
    """A constant learning rate."""

    def __call__(self, progress: float) -> float:
        """Returns the factor at ``progress``, the part in [0, 1] of the steps that are done."""
        return 1.0


class Cosine:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. 5), without restarts.

    Args:
        warmup: the part of training in which the factor first rises linearly from 0 to 1.
    """

    def __init__(self, warmup: Annotated[float, "[0, 1)"] = 0.0) -> None:
        self.warmup = warmup

    def __call__(self, progress: float) -> float:
        """Returns the factor at ``progress``, the part in [0, 1] of the steps that are done."""
        if progress < self.warmup:
            return progress / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup)))


class Steps:
    """A learning rate that is multiplied by ``factor`` at each milestone (He et al., 2016, arXiv:1512.03385, sec. 4.2).

    Args:
        milestones: the points of training, in (0, 1), at which the learning rate falls.
        factor: the factor by which it is multiplied at each milestone.
        warmup: the part of training in which the factor first rises linearly from 0.
    """

    def __init__(
        self,
        milestones: Sequence[Annotated[float, "(0, 1)"]] = (0.5, 0.75),
        factor: Annotated[float, "(0, 1]"] = 0.1,
        warmup: Annotated[float, "[0, 1)"] = 0.0,
    ) -> None:
        self.milestones = sorted(milestones)
        self.factor = factor
        self.warmup = warmup

    def __call__(self, progress: float) -> float:
        """Returns the factor at ``progress``, the part in [0, 1] of the steps that are done."""
        risen = min(1.0, progress / self.warmup) if self.warmup else 1.0
        passed = sum(progress >= milestone for milestone in self.milestones)
        return float(risen * self.factor**passed)
