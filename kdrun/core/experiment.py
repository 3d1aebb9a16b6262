"""What a method is given: the built pieces of one training, and how to get more of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdrun.config.build import build
from kdrun.config.nodes import ALONE, Node
from kdrun.core.models import Plan, Trained, fields, fresh
from kdrun.core.stages import follow
from kdrun.data.splits import Data
from kdrun.data.streams import Brief, Stream, batches, pixels
from kdrun.models import loading
from kdrun.store import weights
from kdrun.store.checkpoint import Journals, journals
from kdrun.store.model_store import Store, differences
from kdrun.store.record import Listener, Record
from kdrun.train.metrics import TASKS, measure, predict
from kdrun.train.runtime import Runtime, derive, drawn
from kdrun.train.stage import Batch, Scores, Stage, Update
from kdrun.train.taps import Tapped, freeze
from kdrun.train.training import Recipe

if TYPE_CHECKING:
    from kdrun.methods.base import Method


@dataclass(frozen=True)
class Experiment:
    """One training: who learns from whom, on what, by which plan.

    Args:
        data: read and split, on the run's device.
        runtime: device, precision, and the wish to stop.
        store: of trained models.
        student: the model to train, with its initial weights.
        student_node: what it was built from, for a method that wants another of the kind.
        teacher: frozen; None where nobody teaches.
        plan: by which the student is trained.
        teacher_plan: by which teachers and assistants are trained.
        trust: packages whose classes a config may name.
        listen: hears of every step, for a progress display.
        notice: hears what a user should know, a line each.
        links: the trained models that this training asked for, in order, its teacher first.
    """

    data: Data
    runtime: Runtime
    store: Store
    student: Tapped
    student_node: Node
    teacher: Trained | None
    plan: Plan
    teacher_plan: Plan
    trust: tuple[str, ...]
    listen: Listener
    notice: Callable[[str], None]
    links: list[Trained] = field(default_factory=list)

    @property
    def alone(self) -> Node:
        """The method by which a model of this task is trained where nobody teaches it."""
        return ALONE[self.data.source.task]

    @property
    def recipe(self) -> Recipe:
        """How the student is trained."""
        return self.plan.recipe("", self.trust)

    def fresh(self, node: Node, seed: int, where: str = "student") -> Tapped:
        """Returns the model of ``node`` with initial weights drawn from the seed and the node alone, on the device."""
        net = fresh(node, seed, self.data.source, self.runtime.device, self.trust, where)
        if self.runtime.compile:
            net.compile_batches(self.recipe.batch_size)
        return net

    def twin(self, word: str) -> Tapped:
        """Returns the student's model once more, its initial weights drawn from the plan's seed and ``word``."""
        return self.fresh(self.student_node, derive(self.plan.seed, word))

    def method(self, node: Node, where: str = "method") -> Method:
        """Returns the method of ``node``, its own weights drawn from the plan's seed."""
        with drawn(derive(self.plan.seed, "method", repr(sorted(node.items())))):
            method: Method = build(node, where=where, trust=self.trust)
        return method

    def taught_by(self, teacher: Trained) -> Experiment:
        """Returns the same training under another teacher."""
        if not any(link is teacher for link in self.links):
            self.links.append(teacher)
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
            "asked": lambda: sum(link.asked for link in self.links),
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
        self, model: Node, method: Node | None = None, teacher: Trained | None = None, plan: Plan | None = None
    ) -> Trained:
        """Returns ``model`` trained by ``method`` under ``teacher``: from the store, or trained now and put there.

        Args:
            model: its node.
            method: the method's node; alone where None.
            teacher: of that training.
            plan: the teachers' where None.
        """
        method, plan = method or self.alone, plan or self.teacher_plan
        fields = self.fields(model, method, teacher, plan)
        with drawn(plan.seed):  # what a method draws next must not depend on whether this was trained or loaded
            folder, manifest = self.store.get(
                model["name"], fields, lambda folder: self._train(folder, model, method, teacher, plan)
            )
        if odd := differences(self.runtime.environment(), manifest["environment"]):
            self.notice(f"{folder.name} was trained elsewhere: {odd}; a retraining may differ in the last bits")
        net = self.fresh(model, plan.seed)
        path = folder / "model.safetensors"
        loading.fill(net.model, loading.read(path), path, model["name"])
        trained = Trained(freeze(net), model["name"], manifest["key"], manifest["scores"], folder)
        self.links.append(trained)
        return trained

    def _train(self, folder: Path, model: Node, method: Node, teacher: Trained | None, plan: Plan) -> dict[str, Any]:
        """Trains ``model`` in ``folder``; returns what its manifest says."""
        links = [teacher] if teacher else []
        exp = replace(self, student_node=model, teacher=teacher, plan=plan, links=links)
        exp = replace(exp, student=exp.fresh(model, plan.seed))
        record = Record(folder, f"{model['name']} by {method['name']}", self.listen)
        try:
            record.text("model", str(model))
            scores = exp.follow(exp.method(method), journals(record))
            sha256 = weights.write(folder / "model.safetensors", exp.student.model)
        finally:
            record.close()
        return {"sha256": sha256, "scores": scores, "environment": self.runtime.environment()}

    def fields(self, model: Node, method: Node, teacher: Trained | None, plan: Plan) -> dict[str, Any]:
        """Returns all that a trained model depends on; the store's key is their hash."""
        return fields(model, method, teacher, plan, self.data, self.runtime.precision, self.trust)

    def follow(self, method: Method, journals: Journals) -> Scores:
        """Trains the stages of ``method`` in turn, or takes them up from their journals; returns the last's scores."""
        return follow(method.stages(self), self.plan.seed, self.recipe, self.runtime, journals)
