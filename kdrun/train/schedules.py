"""Schedules: a factor of the learning rate as a function of the progress of training."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any


class Schedule(ABC):
    """A factor of the learning rate; a class is one, derived from this or not, if its objects are called like one.

    That is with one argument, which is annotated as ``float`` or called ``progress``.
    """

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Returns the factor at ``progress``, the part in [0, 1] of the steps that are done."""

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        call = getattr(other, "__call__", None)  # noqa: B004  (the function of the class, to read its signature)
        if cls is not Schedule or not inspect.isfunction(call):
            return NotImplemented
        takes = list(inspect.signature(call).parameters.values())[1:]
        progress = bool(takes) and (takes[0].name == "progress" or takes[0].annotation in (float, "float"))
        single = all(one.default is not inspect.Parameter.empty for one in takes[1:])
        return True if progress and single else NotImplemented


class Constant(Schedule):
    """A constant learning rate."""

    def __call__(self, progress: float) -> float:
        """Returns the factor at ``progress``, the part in [0, 1] of the steps that are done."""
        return 1.0


class Cosine(Schedule):
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


class Steps(Schedule):
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
