"""The base classes of all methods."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.config.build import KEYWORDS, VARIADIC, Unreadable, hints_of
from kdrun.config.values import check_value
from kdrun.core.sequence import Stages
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Weight
from kdrun.train.stage import STUDENT, Batch, Outputs, Scores, Stage, Step, Terms, Update

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kdrun.core.experiment import Experiment
    from kdrun.core.models import Trained

NO_OUTPUTS = Outputs(torch.empty(0), [])
"""Replaces the teacher's outputs, for a method whose configuration does not use a teacher."""


def is_classic(cls: type) -> bool:
    """Returns whether the class of a method defines its own ``__init__`` and is no dataclass."""
    own = cls.__module__ != __name__ and issubclass(cls, AnyMethod)
    return own and "__init__" in vars(cls) and "__dataclass_fields__" not in vars(cls)


def checked(cls: type, init: Callable[..., None]) -> Callable[..., None]:
    """Returns ``init`` of ``cls`` with a check in front, which refuses arguments that the annotations do not allow."""
    takes = signature(init)

    @wraps(init)
    def check_first(self: AnyMethod, *args: Any, **named: Any) -> None:
        hints = hints_of(cls)
        for name, value in takes.bind(self, *args, **named).arguments.items():
            hint = hints.get(name, Any)
            if isinstance(hint, Unreadable):
                raise ConfigError(name, hint.why)
            if takes.parameters[name].kind not in (VARIADIC, KEYWORDS):
                check_value(value, hint, name)
        if "_modules" not in vars(self):
            nn.Module.__init__(self)  # fields are set before an __init__ of the method's own could call it
        init(self, *args, **named)

    return check_first


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class AnyMethod(nn.Module):
    """A way to train a student; its parameters are what the method itself learns.

    A method derives from ``Method`` if it has a teacher, and from ``Teacherless`` if it has none. Its arguments are
    fields: a name, a type with its range, a default and, below these, a string that says what the argument is for. Each
    subclass becomes a dataclass automatically. An argument that its annotation does not allow raises a ``ConfigError``,
    in Python as in a config. Learned modules and parameters need names that are not arguments; to annotate one, use
    ``field(init=False)``.

    Most methods override only ``loss``. A method with learned parts of its own overrides ``connect`` too. A method with
    more than one stage or player overrides ``stages``.
    """

    task: ClassVar[str] = "classification"
    needs_teacher: bool = True
    reads: ClassVar[frozenset[Literal["logits", "features", "classifier"]]] = frozenset({"logits"})
    """What the method reads of student and teacher. Models are tapped if it reads features; a rehearsal checks this."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "__init__" not in vars(cls) and not any(map(is_classic, cls.__mro__)):
            dataclass(eq=False, repr=False)(cls)
        if "__init__" in vars(cls):
            cls.__init__ = checked(cls, cls.__init__)  # type: ignore[method-assign]

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module | nn.Parameter) and hasattr(type(self), name):
            what = "a module or parameter needs another name, or the argument's default would be read in its place"
            raise TypeError(f"{type(self).__name__}.{name} is an argument; {what}")
        super().__setattr__(name, value)

    def setup(self, exp: Experiment) -> None:
        """Takes from the experiment what the method depends on, such as the number of epochs; called first."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        """Makes the method's own learned parts from the shapes (1, ...) of the tapped features."""

    def begin(self, exp: Experiment) -> None:
        """Calls ``setup``, then ``connect``; ``stages`` calls it first."""
        self.setup(exp)
        self.connect(exp.shapes(exp.student), exp.shapes(exp.teacher) if exp.teachers else [])

    def stages(self, exp: Experiment) -> Stages:
        """Yields the stages in order; each is trained before the next is requested, and its scores are sent back.

        On a resume a finished stage is loaded instead of trained. Between two yields a method therefore only builds and
        freezes: everything that a later stage needs is in the stage's players or in its scores.
        """
        self.begin(exp)
        yield self.distill(exp)

    def distill(self, exp: Experiment, name: str = "distill", **changes: Any) -> Stage:
        """Returns the usual stage: one update, in which the student and the method's parts minimize ``loss``.

        What a method has frozen of them is left out.
        """
        deployed, changes = self.deployed(exp), {"memory": self.memory(), **changes}
        players = {STUDENT: exp.student, "method": self}
        if deployed is not exp.student:
            players, changes = {**players, "deployed": deployed}, {"deployed": "deployed", **changes}
        weights = [weight for part in (exp.student, self) for weight in part.parameters() if weight.requires_grad]
        update = Update(weights, self.loss_of(exp), after_step=self.after_step)
        return exp.stage(name, [update], players, **changes)

    def deployed(self, exp: Experiment) -> nn.Module:
        """Returns the model to score, count, test and export: the student, or a ``Tapped`` model around it."""
        return exp.student

    def after_step(self) -> None:
        """Called after each step of the usual stage, without gradients, to update what the method remembers."""

    def memory(self) -> nn.Module:
        """Returns what the method remembers of single samples, see ``Stage.memory``; most methods have nothing."""
        return nn.Module()

    def loss_of(self, exp: Experiment) -> Callable[[Step], Terms]:
        """Returns ``loss`` as a function of a step, as an update needs it."""
        raise TypeError(f"{type(self).__name__} is neither a Method nor a Teacherless one")

    def metrics(self, exp: Experiment) -> Scores:
        """Returns the metrics of the method on the test split, at the end of a run; most methods have none."""
        return {}

    def figures(self, exp: Experiment) -> Iterator[tuple[str, Figure]]:
        """Yields name and figure of each plot of what the method did, at the end of a run; most methods have none."""
        yield from ()


class Method(AnyMethod):
    """A method whose student learns from a teacher."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        """Returns the weighted terms whose sum the student minimizes; changes nothing."""
        raise TypeError(f"{type(self).__name__} defines neither loss nor stages")

    def loss_of(self, exp: Experiment) -> Callable[[Step], Terms]:
        def loss(step: Step) -> Terms:
            teacher = step(exp.teacher) if self.needs_teacher else NO_OUTPUTS
            return self.loss(step(exp.student), teacher, step.batch)

        return loss


class HardAndSoft(Method):
    """A method that reads logits alone, in two parts: a hard one of the labels, a soft one of the teacher.

    They are apart so that another method can be around the soft part: it sees changed logits, the hard part does not.
    """

    def hard(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        """Returns the weighted terms of hard targets, from logits (N, classes); changes nothing."""
        raise TypeError(f"{type(self).__name__} does not define hard")

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        """Returns the weighted terms between logits (N, classes) of student and teacher; changes nothing."""
        raise TypeError(f"{type(self).__name__} does not define soft")

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        logits = student.logits, teacher.logits
        return {**self.hard(*logits, batch), **self.soft(*logits, batch)}


class LogitMethod(HardAndSoft):
    """A method whose hard part is the cross-entropy with the labels; most methods of logits define ``soft`` alone."""

    ce_weight: Weight = 1.0
    """Weight of the cross-entropy with the labels."""

    def hard(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        return {"ce": self.ce_weight * F.cross_entropy(student, batch.targets)} if self.ce_weight else {}


def warmup(epoch: int, epochs: int) -> float:
    """Returns the factor of a loss in ``epoch`` (from 1), which rises evenly to 1 over ``epochs``; 0 epochs: 1."""
    return min(epoch / epochs, 1.0) if epochs else 1.0


class Teacherless(AnyMethod):
    """A method without a teacher."""

    needs_teacher = False

    def loss(self, student: Outputs, batch: Batch) -> Terms:
        """Returns the weighted terms whose sum the student minimizes; changes nothing."""
        raise TypeError(f"{type(self).__name__} defines neither loss nor stages")

    def loss_of(self, exp: Experiment) -> Callable[[Step], Terms]:
        return lambda step: self.loss(step(exp.student), step.batch)


def choose(key: str, tap: int | None, shapes: list[torch.Size], role: str, among: Sequence[int] = ()) -> int:
    """Returns the chosen tap: ``tap``, or if None the middle one of ``among``, or of all taps if ``among`` is empty.

    Raises:
        ConfigError: if the model has no such tap.
    """
    if not shapes:
        raise ConfigError(f"{role}.taps", f"the method needs a tap in the {role}; name a submodule")
    if tap is not None and tap >= len(shapes):
        raise ConfigError(f"method.{key}", f"{tap} is out of range: the {role} has taps 0 to {len(shapes) - 1}")
    among = among or range(len(shapes))
    return among[len(among) // 2] if tap is None else tap


def adapted(
    stages: Stages, exp: Experiment, adapt: Callable[[Stage], None]
) -> Generator[Stage, Scores | None, Scores | None]:
    """Yields ``stages``, after ``adapt`` has changed those in which the student learns the task.

    It is for methods around other methods. A stage in which the student learns the task selects by the task's first
    score; a stage of hints does not.

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
            adapt(stage)
        scores = yield stage


def chain_scores(exp: Experiment, chain: list[Trained]) -> Scores:
    """Returns the first score, on the test split, of each trained model of a chain, in order."""
    name = exp.main.name
    keys = [f"chain{number}_{link.name}/{name}" for number, link in enumerate(chain, start=1)]
    return {key: exp.scores(link.model, "test")[name] for key, link in zip(keys, chain, strict=True)}


__all__ = [
    "AnyMethod", "Batch", "HardAndSoft", "LogitMethod", "Method", "Outputs", "Scores", "Stage", "Stages", "Step",
    "Teacherless", "Tensor", "Terms", "Update",
]  # fmt: skip
