"""What a method is given: the built pieces of one training, and how to get more of them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdrun import weights
from kdrun.config.build import build, target
from kdrun.data.source import Source
from kdrun.data.splits import Data
from kdrun.data.streams import Stream, batches
from kdrun.errors import ConfigError
from kdrun.files import digest
from kdrun.record import Listener, Record
from kdrun.runtime import Runtime, derive
from kdrun.scores import TASKS, measure, predict
from kdrun.stage import Batch, Outputs, Scores, Stage, Update
from kdrun.store import Store, differences
from kdrun.taps import Renormalized, Tapped, freeze
from kdrun.trainer import Recipe, fit

if TYPE_CHECKING:
    from kdrun.methods.base import Method

Node = dict[str, Any]

SCRATCH: Node = {"_target_": "kdrun.methods.scratch.Scratch", "label_smoothing": 0.0, "name": "scratch"}
"""How a model is trained where nobody teaches it."""

MODEL_ONLY = frozenset({"name", "taps", "recipe", "seed", "checkpoint", "mean", "std"})
"""Keys of a model's node that are not arguments of its class."""

OURS = ("kdrun", "torch", "torchvision")


@dataclass(frozen=True)
class Plan:
    """How, from which seed and on which part of the training data a model is trained.

    Args:
        node: the recipe as configured; part of the trained model's key.
        seed: of initial weights, batches and everything else that is drawn.
        few: whether only ``dataset.train_size`` images are seen, as by the student.
        fast: see ``Recipe``.
    """

    node: Node
    seed: int
    few: bool
    fast: bool = False

    def recipe(self, where: str, trust: tuple[str, ...]) -> Recipe:
        """Returns the recipe that the node describes."""
        node = self.node
        return Recipe(
            epochs=node["epochs"],
            batch_size=node["batch_size"],
            optimizer=lambda params: build(node["optimizer"], params, where=f"{where}optimizer", trust=trust),
            schedule=build(node["schedule"], where=f"{where}schedule", trust=trust),
            stop_at=node.get("stop_at"),
            fast=self.fast,
        )


@dataclass(frozen=True)
class Trained:
    """A trained model, frozen: a teacher, an assistant, a previous student, the same student alone.

    Args:
        model: in eval mode; maps normalized images to ``Outputs``.
        name: as in the config.
        key: what it was made of, as a sha256.
        scores: on the validation split, and the seconds of its training.
        folder: its record; None for a checkpoint that was brought along.
    """

    model: Tapped | Renormalized
    name: str
    key: str
    scores: Scores
    folder: Path | None = None

    def __call__(self, images: Tensor) -> Outputs:
        outputs: Outputs = self.model(images)
        return outputs


@dataclass(frozen=True)
class Experiment:
    """One training: who learns from whom, on what, by which plan.

    Args:
        data: read and split, on the run's device.
        runtime: device, precision, and the wish to stop.
        store: of trained models.
        student: the model to train, with its initial weights.
        teacher: frozen; None where nobody teaches.
        plan: by which the student is trained.
        teacher_plan: by which teachers and assistants are trained.
        trust: packages whose classes a config may name.
        listen: hears of every step, for a progress display.
        notice: hears what a user should know, a line each.
    """

    data: Data
    runtime: Runtime
    store: Store
    student: Tapped
    teacher: Trained | None
    plan: Plan
    teacher_plan: Plan
    trust: tuple[str, ...]
    listen: Listener
    notice: Callable[[str], None]

    @property
    def recipe(self) -> Recipe:
        """How the student is trained."""
        return self.plan.recipe("", self.trust)

    def fresh(self, node: Node, seed: int, where: str = "student") -> Tapped:
        """Returns the model of ``node`` with initial weights drawn from the seed and the node alone, on the device."""
        return fresh(node, seed, self.data.source, self.runtime.device, self.trust, where)

    def method(self, node: Node, where: str = "method") -> Method:
        """Returns the method of ``node``, its own weights drawn from the plan's seed."""
        with drawn(derive(self.plan.seed, "method", repr(sorted(node.items())))):
            method: Method = build(node, where=where, trust=self.trust)
        return method

    def taught_by(self, teacher: Trained) -> Experiment:
        """Returns the same training under another teacher."""
        return replace(self, teacher=teacher)

    def shapes(self, model: Tapped | Trained | None) -> list[torch.Size]:
        """Returns the shapes (1, ...) of the model's tapped features, found by tracing; none for no model."""
        if model is None:
            return []
        net = model if isinstance(model, Tapped) else model.model
        source, was = self.data.source, net.training
        with torch.no_grad():
            images = torch.zeros(1, source.channels, source.size, source.size, device=self.runtime.device)
            features = net.eval()(images).features
        net.train(was)
        return [feature.shape for feature in features]

    def stage(self, name: str, updates: list[Update], modules: Mapping[str, nn.Module], **changes: Any) -> Stage:
        """Returns a stage with what most stages have; ``changes`` are any other fields of ``Stage``.

        The stream is that of the plan's training data, the number of epochs the recipe's; the student is scored on
        the validation split, and the best epoch by the task's first score is kept.
        """
        recipe = self.recipe
        trained = nn.ModuleDict(modules).to(self.runtime.device)
        usual: dict[str, Any] = {
            "stream": self.stream(name, recipe.batch_size),
            "epochs": recipe.epochs,
            "evaluate": lambda: self.scores(self.student),
            "select": self.main.select,
        }
        if recipe.stop_at is not None:
            usual["until"] = lambda scores: scores[self.main.name] >= recipe.stop_at
        stage = Stage(name, updates, trained, **{**usual, **changes})
        if recipe.fast:
            return replace(stage, epochs=1, stream=Brief(stage.stream))
        return stage

    @property
    def main(self) -> Any:
        """The score that selects."""
        return TASKS[self.data.source.task][0]

    def stream(self, name: str, batch_size: int) -> Stream:
        """Returns the training stream of the stage called ``name``."""
        split = self.data.few if self.plan.few else self.data.train
        return Stream(split, self.data.source, batch_size, self.plan.seed, name, self.runtime.device)

    def scores(self, model: nn.Module, split: str = "val") -> Scores:
        """Returns the task's scores of ``model`` on a split; leaves it in eval mode."""
        source = self.data.source
        logits, targets = self.predict(model, split)
        if source.task == "translation":
            logits, targets = (pixels(images, source.mean, source.std) for images in (logits, targets))
        return measure(source.task, logits, targets)

    def batches(self, split: str) -> Iterator[Batch]:
        """Yields a split (``val``, ``test``) in order and as it is."""
        size = max(256, self.recipe.batch_size)  # no gradients are kept: small batches would only be slower
        return batches(getattr(self.data, split), self.data.source, size, self.runtime.device)

    def predict(self, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
        """Returns the logits of ``model`` on a split and the targets; leaves it in eval mode."""
        return predict(model.eval(), self.batches(split))

    def trained(
        self, model: Node, method: Node = SCRATCH, teacher: Trained | None = None, plan: Plan | None = None
    ) -> Trained:
        """Returns ``model`` trained by ``method`` under ``teacher``: from the store, or trained now and put there.

        Args:
            model: its node.
            method: the method's node; from scratch where none is given.
            teacher: of that training.
            plan: the teachers' where None.
        """
        plan = plan or self.teacher_plan
        fields = self.fields(model, method, teacher, plan)
        with drawn(plan.seed):  # what a method draws next must not depend on whether this was trained or loaded
            folder, manifest = self.store.get(
                model["name"], fields, lambda folder: self._train(folder, model, method, teacher, plan)
            )
        if odd := differences(self.runtime.environment(), manifest["environment"]):
            self.notice(f"{folder.name} was trained elsewhere: {odd}; a retraining may differ in the last bits")
        net = self.fresh(model, plan.seed)
        path = folder / "model.safetensors"
        weights.fill(net.model, weights.read(path), path, model["name"])
        return Trained(freeze(net), model["name"], manifest["key"], manifest["scores"], folder)

    def _train(self, folder: Path, model: Node, method: Node, teacher: Trained | None, plan: Plan) -> dict[str, Any]:
        """Trains ``model`` in ``folder``; returns what its manifest says."""
        exp = replace(self, student=self.fresh(model, plan.seed), teacher=teacher, plan=plan)
        record = Record(folder, model["name"], self.listen)
        try:
            record.text("model", str(model))
            scores = exp.follow(exp.method(method), record)
            sha256 = weights.write(folder / "model.safetensors", exp.student.model)
        finally:
            record.close()
        return {"sha256": sha256, "scores": scores, "environment": self.runtime.environment()}

    def fields(self, model: Node, method: Node, teacher: Trained | None, plan: Plan) -> dict[str, Any]:
        """Returns all that a trained model depends on; the store's key is their hash."""
        source, data = self.data.source, self.data
        return {
            "model": bare(model),
            "task": [source.task, source.channels, source.classes, source.size],
            "data": data.digest,
            "split": [source.val_fraction, source.split_seed, source.train_size if plan.few else None],
            "look": [source.mean, source.std, source.crop, source.flip, source.pad_to],
            "recipe": nameless(plan.node),
            "fast": plan.fast,
            "precision": self.runtime.precision,
            "method": nameless(method),
            "teacher": teacher.key if teacher else None,
            "seed": plan.seed,
            "sources": sorted(sources([model, method, plan.node], self.trust)),
        }

    def follow(self, method: Method, record: Record) -> Scores:
        """Trains the stages of ``method`` in turn, or takes them up from ``record``; returns the last one's scores.

        The seconds are those of all stages. The global generators are seeded anew before each advance and each
        stage, so that a stage which is loaded instead of trained leaves what follows as it was.
        """
        stages, scores, after, number, seconds = method.stages(self), None, "", 0, 0.0
        while True:
            torch.manual_seed(derive(self.plan.seed, "between", number))
            try:
                stage = stages.send(scores)
            except StopIteration:
                return {**(scores or {}), "seconds": seconds}
            number += 1
            torch.manual_seed(derive(self.plan.seed, "stage", stage.name))
            journal = record.journal(number, stage, after)
            if finished := journal.finished():
                scores, after = finished
            else:
                scores = fit(stage, self.recipe, self.runtime, journal)
                after = journal.finish(scores)
            seconds += scores["seconds"]


def fresh(
    node: Node, seed: int, source: Source, device: torch.device, trust: tuple[str, ...], where: str = "student"
) -> Tapped:
    """Returns the model of ``node``, built for ``source``, its initial weights drawn from the seed and the node."""
    core = bare(node)
    with drawn(derive(seed, "student", repr(sorted(core.items())))):
        model = build(core, source.channels, source.classes, source.size, where=where, trust=trust)
    if getattr(model, "channels_last", False):
        model.to(memory_format=torch.channels_last)
    try:
        return Tapped(model, node.get("taps", ())).to(device)
    except AttributeError as error:
        raise ConfigError(f"{where}.taps", str(error)) from error


class Brief:
    """The first two batches of each epoch of a stream."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return min(2, len(self.stream))

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        for _, batch in zip(range(len(self) - start), self.stream.epoch(number, start), strict=False):
            yield batch


class drawn:
    """A context in which torch's global CPU generator starts from ``seed``; afterwards it is as it was before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *args: object) -> None:
        torch.set_rng_state(self.state)


def bare(node: Node) -> Node:
    """Returns the part of a model's node that makes the network: its class and arguments."""
    return {key: value for key, value in node.items() if key not in MODEL_ONLY}


def nameless(node: Any) -> Any:
    """Returns ``node`` without the names that its options have in conf/: another name is not another thing."""
    if isinstance(node, dict):
        return {key: nameless(value) for key, value in node.items() if not (key == "name" and "_target_" in node)}
    return [nameless(value) for value in node] if isinstance(node, list) else node


def sources(nodes: Any, trust: tuple[str, ...]) -> Iterator[str]:
    """Yields the sha256 of all files that ``nodes`` name: the code of classes that are not ours, torch's or
    torchvision's, and files of weights.
    """
    if isinstance(nodes, dict):
        path = nodes.get("_target_")
        if isinstance(path, str) and path.partition(".")[0] not in OURS:
            made = target(nodes, path, trust)
            yield hashlib.sha256(Path(inspect.getfile(made)).read_bytes()).hexdigest()
        nodes = list(nodes.values())
    if isinstance(nodes, list):
        for node in nodes:
            yield from sources(node, trust)
    if isinstance(nodes, str) and nodes.endswith(weights.SUFFIXES) and Path(nodes).is_file():
        yield digest(Path(nodes))


def pixels(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Returns normalized ``images`` as pixels in [0, 1]."""
    scale, shift = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (std, mean))
    return torch.addcmul(shift, images, scale).clamp(0, 1)
