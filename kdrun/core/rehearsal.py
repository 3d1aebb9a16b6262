"""A rehearsal: every stage of a training, built and its losses computed once on noise, before any data is read."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch

from kdrun.config.nodes import Node
from kdrun.core.experiment import Experiment
from kdrun.core.models import Plan, Trained
from kdrun.data.source import Source, Split
from kdrun.data.splits import NOISE, Data
from kdrun.errors import ConfigError, KdrunError
from kdrun.store.model_store import key
from kdrun.train.stage import Scores, Stage
from kdrun.train.taps import freeze

if TYPE_CHECKING:
    from kdrun.methods.base import Method

IMAGES = 2
"""Of a rehearsal's batch: the fewest that BatchNorm can train on."""


@dataclass(frozen=True)
class Sketch:
    """What a rehearsal saw of one stage.

    Args:
        model: which model it trains.
        stage: its name.
        epochs: of it.
        terms: the names of its losses, one list per update.
        moved: how many parameters each update moves.
    """

    model: str
    stage: str
    epochs: int
    terms: list[list[str]]
    moved: list[int]


@dataclass(frozen=True)
class Rehearsal(Experiment):
    """An experiment that trains nothing: it goes through all stages and notes what it saw in ``seen``."""

    seen: list[Sketch] = field(default_factory=list)
    trains: str = "student"
    known: dict[str, Trained] = field(default_factory=dict)

    def trained(
        self, model: Node, method: Node | None = None, teacher: Trained | None = None, plan: Plan | None = None
    ) -> Trained:
        """Returns ``model`` untrained, after the rehearsal of its own training; the same one when asked again."""
        method, plan = method or self.alone, plan or self.teacher_plan
        plan = replace(plan, node=small(plan.node))
        made = repr((model, method, teacher.key if teacher else None, plan))
        if made not in self.known:
            net, name = self.fresh(model, plan.seed), model.get("name", "model")
            other = replace(self, student=net, student_node=model, teacher=teacher, plan=plan, trains=name)
            other.rehearse(other.method(method))
            self.known[made] = Trained(freeze(net), name, key({"made": made}), {})
        return self.known[made]

    def rehearse(self, method: Method) -> list[Sketch]:
        """Goes through the stages of ``method``; returns what was seen, the chain's links among it.

        Raises:
            ConfigError: if models, taps and method do not fit together.
        """
        try:
            stages, scores = method.stages(self), None
            while True:
                stage = stages.send(scores)
                self.seen.append(self._sketch(stage))
                scores = self._scores(stage)
        except StopIteration:
            return self.seen
        except KdrunError:
            raise
        except (RuntimeError, ValueError, AttributeError, IndexError, TypeError) as error:
            raise ConfigError("method", f"cannot train {self.trains}: {str(error).splitlines()[0]}") from error

    def _sketch(self, stage: Stage) -> Sketch:
        stage.modules.train()
        batch = next(stage.stream.epoch(1))
        with torch.no_grad():
            given = stage.given(batch)
        terms = [list(update.loss(batch, given)) for update in stage.updates]
        moved = [sum(parameter.numel() for parameter in update.params) for update in stage.updates]
        return Sketch(self.trains, stage.name, stage.epochs, terms, moved)

    def _scores(self, stage: Stage) -> Scores:
        return {**(stage.evaluate() if stage.evaluate else {}), "epoch": 1, "seconds": 0.0, "asked": 0.0}


def small(node: dict[str, Any]) -> dict[str, Any]:
    """Returns a recipe's node with a batch that a rehearsal's data can fill."""
    return {**node, "batch_size": IMAGES}


def noise(source: Source) -> Data:
    """Returns random images of the shape that ``source`` says, two a split."""
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, source.channels, source.size, source.size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    paired = source.task == "translation"
    targets = images if paired else torch.randint(source.classes, (IMAGES,), generator=generator)
    split = Split(images, targets)
    return Data(source, split, split, split, split, NOISE, [])


def rehearse(exp: Experiment, method: Node, name: str, teacher: Node | None) -> list[Sketch]:
    """Returns the sketches of all stages of ``exp`` under ``method`` and ``teacher``, in the order of training.

    Raises:
        ConfigError: if something does not fit.
    """
    parts = {field.name: getattr(exp, field.name) for field in fields(Experiment)}
    plan = replace(exp.plan, node=small(exp.plan.node))
    runtime = replace(exp.runtime, compile=False)  # for one batch it would take longer than it saves
    rehearsal = Rehearsal(**{**parts, "plan": plan, "runtime": runtime, "notice": lambda line: None}, trains=name)
    if teacher:
        net = rehearsal.fresh(teacher, exp.teacher_plan.seed, "teacher")  # its faults are said under its own key
        brought = Trained(freeze(net), teacher["name"], "brought", {}) if teacher["checkpoint"] else None
        rehearsal = replace(rehearsal, teacher=brought or rehearsal.trained(teacher))
    return rehearsal.rehearse(rehearsal.method(method))
