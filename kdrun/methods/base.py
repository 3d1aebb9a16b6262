"""The face of every method."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from kdrun.config.build import KEYWORDS, VARIADIC, hints_of
from kdrun.config.values import fit
from kdrun.train.stage import Batch, Outputs, Scores, Stage, Terms, Update

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdrun.core.experiment import Experiment
    from kdrun.core.models import Trained


Stages = Generator[Stage, Scores | None, None]
"""Stages in turn; each is sent back as its scores once it is trained."""


class Method(nn.Module):
    """A way to distil; its parameters are what the method itself learns.

    Most methods override ``loss`` alone; one with learned parts of its own, ``connect`` too; one with more than a
    single stage or player, ``stages``. The annotations of a method's arguments are binding, its ranges too, in Python
    as in a config: an argument that they do not allow raises a ``ConfigError``.
    """

    task: ClassVar[str] = "classification"
    needs_teacher: bool = True

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls.__init__)  # type: ignore[method-assign]

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        """Makes the method's own learned parts from the shapes (1, ...) of the tapped features."""

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        """Returns the weighted terms whose sum the student goes down; changes nothing."""
        raise TypeError(f"{type(self).__name__} defines neither loss nor stages")

    def stages(self, exp: Experiment) -> Stages:
        """Yields the stages in turn; each is trained before the next is asked for, and sent back as its scores.

        A finished stage is loaded on a resume instead of trained, so between two yields a method only builds and
        freezes: all that a later stage needs is in the stage's modules or in its scores.
        """
        self.connect(exp.shapes(exp.student), exp.shapes(exp.teacher))
        yield self.distill(exp)

    def findings(self, exp: Experiment) -> Scores:
        """Returns what else there is to measure at the end of a run, on the test split; nothing for most methods."""
        return {}

    def figures(self, exp: Experiment) -> Iterator[tuple[str, Figure]]:
        """Yields the figures, by name, that show at the end of a run what the method did; none for most."""
        yield from ()

    def distill(self, exp: Experiment, name: str = "distill", **changes: Any) -> Stage:
        """Returns the plain stage: one update of the student and of the method's parts, down ``loss``."""

        def given(batch: Batch) -> Outputs | None:
            return exp.teacher(batch.images) if exp.teacher else None

        def loss(batch: Batch, teacher: Outputs | None) -> Terms:
            return self.loss(exp.student(batch.images), teacher, batch)

        update = Update([*exp.student.parameters(), *self.parameters()], loss)
        return exp.stage(name, [update], {"student": exp.student, "method": self}, given=given, **changes)


def checked(init: Callable[..., None]) -> Callable[..., None]:
    """Returns ``init`` so that it refuses arguments that its annotations do not allow."""

    @wraps(init)
    def first_checked(self: Method, *args: Any, **named: Any) -> None:
        hints, taken = hints_of(init), signature(init)
        for name, value in taken.bind(self, *args, **named).arguments.items():
            if taken.parameters[name].kind not in (VARIADIC, KEYWORDS):
                fit(value, hints.get(name, Any), name)
        init(self, *args, **named)

    return first_checked


def changed(
    stages: Stages, exp: Experiment, change: Callable[[Stage], None]
) -> Generator[Stage, Scores | None, Scores | None]:
    """Yields ``stages``, after ``change`` has been at those in which the student learns the task; for methods around
    others. They are those that select by the task's first score, which stages of hints do not.

    Returns:
        The scores of the last stage.
    """
    scores = None
    while True:
        try:
            stage = stages.send(scores)
        except StopIteration:
            return scores
        if stage.select == exp.main.select:
            change(stage)
        scores = yield stage


def tested(exp: Experiment, links: list[Trained]) -> Scores:
    """Returns the first score, on the test split, of each link of a chain, in order."""
    name = exp.main.name
    names = [f"link{place}_{link.name}/{name}" for place, link in enumerate(links, start=1)]
    return {key: exp.scores(link.model, "test")[name] for key, link in zip(names, links, strict=True)}


__all__ = ["Batch", "Method", "Outputs", "Scores", "Stage", "Stages", "Terms", "Update"]
