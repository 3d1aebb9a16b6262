"""A weighted sum of the losses of several methods, as the rows "+ KD" of papers are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdrun.errors import ConfigError
from kdrun.methods.arguments import MethodNode, Weight
from kdrun.methods.base import AnyMethod, Method, Scores, Stage, Step, Terms, Update
from kdrun.train.stage import STUDENT

if TYPE_CHECKING:
    from kdrun.core.experiment import Experiment


class Sum(Method):
    """The sum of the losses of all ``parts``, each multiplied by its weight, in one stage.

    It is how papers add KD to another method, as in the row "CRD+KD" of Tian et al. 2020, arXiv:1910.10699.
    All terms of a part are weighted, its cross-entropy too, and the cross-entropies of the parts add up: to have it
    once, take it from all but one of them with ``ce_weight`` 0. A part is any method that trains the student in one
    stage by one update; chains and methods of several phases go around the sum, not into it.
    """

    parts: list[MethodNode]
    """Methods whose losses are added: names, or {name: NAME, KEY: VALUE} to change arguments of one."""
    weights: list[Weight] | None = None
    """Weight of each part, in their order; 1 for all if null."""

    def setup(self, exp: Experiment) -> None:
        if not self.parts:
            raise ConfigError("method.parts", "there are none; name methods, as in method.parts=[kd,dist]")
        if self.weights is not None and len(self.weights) != len(self.parts):
            what = f"{len(self.weights)} weights for {len(self.parts)} parts; give one for each"
            raise ConfigError("method.weights", what)
        self.inner = nn.ModuleList(exp.method(node) for node in self.parts)
        for number, part in enumerate(self.methods()):
            check_part(part, self.label(number), f"method.parts[{number}]")
            part.setup(exp)

    def methods(self) -> Iterator[AnyMethod]:
        """Yields the parts."""
        for part in self.inner:
            assert isinstance(part, AnyMethod)  # a list of modules forgets it
            yield part

    def label(self, number: int) -> str:
        """Returns the name of part ``number``, with its place behind it where an earlier one has the same name."""
        names = [str(node.get("name", node["_target_"].rpartition(".")[2].lower())) for node in self.parts]
        repeated = names[number] in names[:number]
        return f"{names[number]}_{number + 1}" if repeated else names[number]

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        for part in self.methods():
            part.connect(student, teacher)

    def distill(self, exp: Experiment, name: str = "distill", **changes: Any) -> Stage:
        whole = super().distill(exp, name, **changes)
        stages = [part.distill(exp, name, **changes) for part in self.methods()]
        for number, stage in enumerate(stages):
            check_stage(stage, self.label(number), f"method.parts[{number}]")
        updates = [stage.updates[0] for stage in stages]
        params = dict.fromkeys(parameter for update in updates for parameter in update.params)
        whole.updates = [Update(params, self.loss_over(updates), after_step=self.after_step)]
        return whole

    def loss_over(self, updates: list[Update]) -> Callable[[Step], Terms]:
        """Returns the weighted sum of the losses of ``updates``, as an update needs it."""
        weights = self.weights or [1.0] * len(updates)
        labels = [self.label(number) for number in range(len(updates))]

        def loss(step: Step) -> Terms:
            terms: Terms = {}
            for update, weight, label in zip(updates, weights, labels, strict=True):
                terms |= {f"{label}_{term}": weight * value for term, value in update.loss(step).items()}
            return terms

        return loss

    def after_step(self) -> None:
        for part in self.methods():
            part.after_step()

    def memory(self) -> nn.Module:
        return nn.ModuleList(part.memory() for part in self.methods())

    def metrics(self, exp: Experiment) -> Scores:
        scores: Scores = {}
        for number, part in enumerate(self.methods()):
            scores |= {f"{self.label(number)}_{name}": value for name, value in part.metrics(exp).items()}
        return scores


def check_part(part: AnyMethod, label: str, where: str) -> None:
    """Refuses a method with stages of its own.

    Raises:
        ConfigError: naming ``where``.
    """
    if type(part).stages is not AnyMethod.stages:
        what = f"{label} has stages of its own, which cannot be added up"
        raise ConfigError(where, f"{what}; if it takes a base, put the sum there: method.base=sum")


def check_stage(stage: Stage, label: str, where: str) -> None:
    """Refuses a stage that is more than one update of the student and of the method's parts.

    Raises:
        ConfigError: naming ``where``.
    """
    plain = Update((), stage.updates[0].loss, player=STUDENT)
    own = [(update.optimizer, update.repeat, update.scheduled, update.player) for update in stage.updates]
    if own != [(plain.optimizer, plain.repeat, plain.scheduled, plain.player)] or stage.deployed != STUDENT:
        raise ConfigError(
            where, f"{label} is more than one loss of the student, which cannot be added up; leave it out"
        )
