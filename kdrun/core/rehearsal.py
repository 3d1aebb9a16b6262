"""A rehearsal: builds every stage of a training and computes its losses once on noise, before any data is read."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import torch
from torch import Tensor, nn

from kdrun.config.nodes import Node
from kdrun.core.experiment import Experiment
from kdrun.core.models import Plan, Trained, untrained_key
from kdrun.core.sequence import deployed_module
from kdrun.data.source import Places, Source, Split
from kdrun.data.splits import NOISE, Data
from kdrun.errors import ConfigError, KdrunError, lacks_memory
from kdrun.store.model_store import key
from kdrun.train.loop import COSTS
from kdrun.train.runtime import fits
from kdrun.train.stage import Model, Outputs, Scores, Stage, Step, Terms
from kdrun.train.taps import Tapped, freeze

if TYPE_CHECKING:
    from kdrun.methods.base import AnyMethod

BATCH = 2
"""The number of images in a rehearsal's batch: the fewest that BatchNorm can train on."""


@dataclass(frozen=True)
class StageSummary:
    """A summary of one stage, made by a rehearsal.

    Args:
        model: the name of the model that the stage trains.
        stage: the name of the stage.
        epochs: its number of epochs.
        terms: the names of its loss terms, one list per update.
        parameters: the number of parameters that each update trains.
    """

    model: str
    stage: str
    epochs: int
    terms: list[list[str]]
    parameters: list[int]


@dataclass(frozen=True)
class Rehearsal(Experiment):
    """An experiment that trains nothing: it goes through all stages and keeps a summary of each.

    Args:
        summaries: the summaries of all stages so far, including those of a chain.
        trains: the name of the model in training.
        known: the models that have been rehearsed, by everything that they depend on.
        read: what the losses have read of the models' outputs so far.
    """

    summaries: list[StageSummary] = field(default_factory=list)
    trains: str = "student"
    known: dict[str, Trained] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, exp: Experiment, **changes: Any) -> Rehearsal:
        """Returns a rehearsal of ``exp``: on noise, in small batches, with a copy of its student."""
        parts = {part.name: getattr(exp, part.name) for part in fields(Experiment)}
        parts |= {
            "data": noise(exp.data.source).to(exp.runtime.device),
            "runtime": replace(exp.runtime, compile=False),  # for one batch, compiling takes longer than it saves
            "student": deepcopy(exp.student),
            "plan": replace(exp.plan, node=small(exp.plan.node)),
            "notice": lambda line: None,
            "chain": [],
        }
        return cls(**{**parts, **changes})

    def built(self, node: Node, seed: int, where: str = "student") -> Tapped:
        """Returns a copy of the model of ``node``; the model itself is kept for the training."""
        net = super().built(node, seed, where)
        self.untrained[untrained_key(node, seed)] = net
        return deepcopy(net)

    def trained(
        self,
        model: Node,
        method: Node | None = None,
        teacher: Trained | None = None,
        plan: Plan | None = None,
        where: str = "student",
    ) -> Trained:
        """Rehearses the training of ``model`` and returns it untrained; later calls return the same model.

        ``where`` is the dotted key of ``model``, for errors.
        """
        method, plan = method or self.baseline, plan or self.teacher_plan
        plan = replace(plan, node=small(plan.node))
        depends = repr((model, method, teacher.key if teacher else None, plan))
        if depends not in self.known:
            net, name = self.initialised(model, plan.seed, where), model.get("name", "model")
            teachers = (teacher,) if teacher else ()
            changes: dict[str, Any] = {"student": net, "student_node": model, "teachers": teachers}
            other = replace(self, plan=plan, trains=name, **changes)
            self.check_link(other.follow_dry(other.method(method)), net, method["name"])
            self.known[depends] = Trained(freeze(net), name, key({"depends": depends}), {})
        return self.known[depends]

    def teacher_of(self, node: Node) -> Trained:
        """Returns the teacher of ``node`` untrained; its training is rehearsed unless it has a checkpoint."""
        if not node["checkpoint"]:
            return self.trained(node, where="teacher")
        return Trained(freeze(self.initialised(node, self.teacher_plan.seed, "teacher")), node["name"], "external", {})

    def classifier(self, model: Tapped | Trained, where: str) -> nn.Linear:
        self.read.add("classifier")
        return super().classifier(model, where)

    def follow_dry(self, method: AnyMethod) -> nn.Module:
        """Goes through the stages of ``method``; returns the module that the last stage deploys.

        Raises:
            ConfigError: if models, taps and method do not fit together, or the method reads what it does not declare.
        """
        stages, scores, stage = method.stages(self), None, None
        try:
            while True:
                stage = stages.send(scores)
                self.summaries.append(self._summary(stage))
                scores = self._scores(stage)
        except StopIteration:
            self._check_reads(method)
            return deployed_module(stage)
        except KdrunError:
            raise
        except (RuntimeError, MemoryError, ValueError, AttributeError, LookupError, TypeError) as error:
            self._check_reads(method)
            if lacks_memory(error):
                shape = "x".join(map(str, self.data.val.images.shape[1:]))
                what = f"its training needs more memory than there is, even with {BATCH} images of {shape}"
                raise ConfigError(self.trains, f"{what}; choose a smaller model") from error
            raise ConfigError("method", f"cannot train {self.trains}: {str(error).splitlines()[0]}") from error

    def _check_reads(self, method: AnyMethod) -> None:
        if undeclared := self.read - self.reads:
            what = " and ".join(sorted(undeclared))
            raise ConfigError("method", f"{type(method).__name__} reads {what}, which its `reads` does not declare")

    def _summary(self, stage: Stage) -> StageSummary:
        stage.train_mode()
        step = WatchedStep(next(stage.stream.epoch(1)), stage, self.read)
        terms: list[Terms] = []
        for update in stage.updates:
            terms.append(stage.named(update, update.loss(step)))
            step.moved(update)
        check_learns(stage, [term for own in terms for term in own.items()])
        parameters = [sum(parameter.numel() for parameter in update.params) for update in stage.updates]
        return StageSummary(self.trains, stage.name, stage.epochs, [list(own) for own in terms], parameters)

    def _scores(self, stage: Stage) -> Scores:
        return {**(stage.evaluate() if stage.evaluate else {}), "epoch": 1, **dict.fromkeys(COSTS, 0.0)}


def check_learns(stage: Stage, terms: list[tuple[str, Tensor]]) -> None:
    """Refuses a stage whose losses are all zero: with weights of zero, training would change nothing.

    Raises:
        ConfigError: naming the stage and its terms.
    """
    zero = not any(bool(term.detach().count_nonzero()) for _, term in terms)
    weights = [parameter for update in stage.updates for parameter in update.params]
    learned = [term for _, term in terms if term.requires_grad]
    if stage.updates and zero and not (learned and moves(learned, weights)):
        what = f"every loss ({', '.join(name for name, _ in terms)}) is zero" if terms else "there is no loss"
        raise ConfigError("method", f"in stage {stage.name} {what}, so nothing is learned; give a weight above 0")


def moves(terms: list[Tensor], weights: list[nn.Parameter]) -> bool:
    """Returns whether the sum of ``terms`` has a gradient other than zero in one of ``weights``."""
    loss = torch.stack([term.sum() for term in terms]).sum()
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    return any(gradient is not None and bool(gradient.count_nonzero()) for gradient in gradients)


class WatchedStep(Step):
    """A step that records in ``read`` what is read of the outputs apart from the logits."""

    def __init__(self, batch: Any, stage: Stage, read: set[str]) -> None:
        super().__init__(batch, stage)
        self.read = read

    def __call__(self, model: Model) -> Outputs:
        logits, features = super().__call__(model)
        return Outputs(logits, WatchedFeatures(features, self.read))

    def latest(self, model: Model) -> Outputs:
        logits, features = super().latest(model)
        return Outputs(logits, WatchedFeatures(features, self.read))

    def until(self, model: Model, tap: int) -> Tensor:
        self.read.add("features")
        return super().until(model, tap)


class WatchedFeatures(list[Tensor]):
    """Features that record in ``read`` when one of them is read."""

    def __init__(self, features: list[Tensor], read: set[str]) -> None:
        super().__init__(features)
        self.read = read

    @overload
    def __getitem__(self, index: SupportsIndex) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: Any) -> Any:
        self.read.add("features")
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Tensor]:
        self.read.add("features")
        return super().__iter__()


def small(node: dict[str, Any]) -> dict[str, Any]:
    """Returns a recipe's node with the batch size of a rehearsal."""
    return {**node, "batch_size": BATCH}


def noise(source: Source) -> Data:
    """Returns random images of the shape that ``source`` describes, ``BATCH`` in each split."""
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, source.channels, source.size, source.size)
    with fits("dataset", f"{BATCH} images of {source.channels}x{source.size}x{source.size} need"):
        images = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    paired = source.task == "translation"
    targets = images if paired else torch.randint(source.classes, (BATCH,), generator=generator)
    split = Split(images, targets)
    places = Places(torch.arange(BATCH), BATCH)
    return Data(source, split, split, split, split, NOISE, [], places, places)


def rehearse(exp: Experiment, method: AnyMethod, name: str, teacher: Node | None) -> list[StageSummary]:
    """Returns the summaries of all stages of ``exp`` under ``method`` and ``teacher``, in the order of training.

    Args:
        exp: the experiment, still without its teacher; it is not changed.
        method: the method; it is not changed.
        name: the name of the student.
        teacher: the node of the teacher; None if the method has none.

    Raises:
        ConfigError: if something does not fit.
    """
    rehearsal = Rehearsal.of(exp, trains=name)
    if teacher:
        rehearsal = replace(rehearsal, teachers=(rehearsal.teacher_of(teacher),))
    rehearsal.follow_dry(deepcopy(method))
    return rehearsal.summaries
