"""The experiment that a method works with: data, models and plan of one training, and ways to make more of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdrun.config.build import Builder
from kdrun.config.kinds import METHOD
from kdrun.config.nodes import BASELINE, Node
from kdrun.core.models import Plan, Trained, initialised, key_fields, shapes, untrained_key
from kdrun.core.sequence import Outcome, follow
from kdrun.core.teacher_table import Tables
from kdrun.data.splits import Data
from kdrun.data.streams import FirstBatches, Stream, batches, pixels
from kdrun.errors import ConfigError
from kdrun.models import loading
from kdrun.store import weights
from kdrun.store.checkpoint import Journals, journals
from kdrun.store.evaluations import Evaluations
from kdrun.store.model_store import ModelStore, differences, key
from kdrun.store.record import Listener, Record
from kdrun.train.loop import Recipe
from kdrun.train.metrics import TASKS, Score, measure, predict
from kdrun.train.runtime import Runtime, derive, seeded
from kdrun.train.stage import STUDENT, Batch, Model, Outputs, Scores, Stage, Update
from kdrun.train.taps import Tapped, classifier, freeze

if TYPE_CHECKING:
    from kdrun.methods.base import AnyMethod


@dataclass(frozen=True)
class Experiment:
    """One training: its student, teacher, data and plan.

    Args:
        data: the data set, read and split, on the run's device.
        runtime: device, precision, and signals that stop the run.
        store: the store of trained models.
        builder: builds objects from config nodes; it knows which further packages this run trusts.
        student: the model to train, with its initial weights.
        student_node: the config node of the student, for a method that needs another model of the same architecture.
        teachers: the frozen teachers, first the one that the student learns from; empty if there is none.
        plan: the plan by which the student is trained.
        teacher_plan: the plan by which teachers and assistants are trained.
        reads: what the method reads of models, see ``AnyMethod.reads``; models are tapped if it reads features.
        tables: the teacher tables, which keep what frozen models say of the training images.
        listen: called at every step, for a progress display.
        notice: called with one line that the user should see.
        chain: the trained models that this training has used, in order; the teacher is first.
        evaluations: the scores of trained models that earlier runs have measured; None measures all.
        untrained: models with their initial weights, built by a rehearsal and not yet taken, see ``untrained_key``.
    """

    data: Data
    runtime: Runtime
    store: ModelStore
    builder: Builder
    student: Tapped
    student_node: Node
    teachers: tuple[Trained, ...]
    plan: Plan
    teacher_plan: Plan
    reads: frozenset[str]
    tables: Tables
    listen: Listener
    notice: Callable[[str], None]
    chain: list[Trained] = field(default_factory=list)
    evaluations: Evaluations | None = None
    untrained: dict[str, Tapped] = field(default_factory=dict)

    @property
    def teacher(self) -> Trained:
        """The model that the student learns from."""
        return self.teachers[0]

    @property
    def baseline(self) -> Node:
        """The node of the method that trains a model of this task without a teacher."""
        return BASELINE[self.data.source.task]

    @property
    def main(self) -> Score:
        """The score that selects the best epoch."""
        return TASKS[self.data.source.task][0]

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe by which the student is trained."""
        return self.plan.recipe(self.builder)

    def initialised(self, node: Node, seed: int, where: str = "student") -> Tapped:
        """Returns the model of ``node`` on the device; its initial weights depend only on the seed and the node."""
        return self.compiled(self.built(node, seed, where))

    def built(self, node: Node, seed: int, where: str = "student") -> Tapped:
        """Returns the model as ``initialised`` does, not compiled; a model that a rehearsal has built is taken."""
        source, device, tapped = self.data.source, self.runtime.device, "features" in self.reads
        net = self.untrained.pop(untrained_key(node, seed), None)
        return net or initialised(node, seed, source, device, self.builder, where, tapped)

    def taps(self, node: Node) -> list[str]:
        """Returns the taps of the model of ``node`` in this experiment; none if the method reads no features."""
        return list(node.get("taps", ())) if "features" in self.reads else []

    def compiled(self, net: Tapped) -> Tapped:
        """Returns ``net``, compiled for the recipe's batch size if the run compiles its models."""
        if self.runtime.compile:
            net.compile_batches(self.recipe.batch_size)
        return net

    def peer(self, word: str) -> Tapped:
        """Returns another model of the student's architecture; its initial weights depend on the seed and ``word``."""
        return self.initialised(self.student_node, derive(self.plan.seed, word))

    def method(self, node: Node, where: str = "method") -> AnyMethod:
        """Returns the method of ``node``; the plan's seed determines the weights of its own modules."""
        return build_method(self.builder, node, self.plan.seed, where)

    def taught_by(self, teacher: Trained) -> Experiment:
        """Returns this experiment with another teacher."""
        if not any(link is teacher for link in self.chain):
            self.chain.append(teacher)
        return replace(self, teachers=(teacher,))

    def shapes(self, model: Tapped | Trained) -> list[torch.Size]:
        """Returns the shapes (1, ...) of the model's tapped features, found by tracing."""
        net = model if isinstance(model, Tapped) else model.model
        return shapes(net, self.data.source, self.runtime.device)

    def classifier(self, model: Tapped | Trained, where: str) -> nn.Linear:
        """Returns the linear layer whose output is the model's logits; it has one weight row per class.

        Raises:
            ConfigError: naming ``where``, if the model's last linear layer is not that layer.
        """
        source = self.data.source
        images = torch.zeros(1, source.channels, source.size, source.size, device=self.runtime.device)
        layer = classifier(model if isinstance(model, Tapped) else model.model, images)
        if layer is None:
            what = "its logits do not come from its last linear layer; this method needs a model where they do"
            raise ConfigError(where, what)
        return layer

    def stage(self, name: str, updates: list[Update], players: Mapping[str, nn.Module], **changes: Any) -> Stage:
        """Returns a stage with the usual settings; ``changes`` set or replace any other fields of ``Stage``.

        By default the stage uses the plan's training data and the recipe's number of epochs, and deploys the student
        if that is one of the ``players``. The deployed player is scored on the validation split, and the best epoch by
        the task's first score is kept. A stage that deploys nothing has no scores and keeps its last epoch.
        """
        nn.ModuleDict(players).to(self.runtime.device)
        deployed = changes.pop("deployed", STUDENT if STUDENT in players else None)
        if deployed is not None and deployed not in players:
            raise ValueError(f"stage {name} deploys {deployed!r}, which is none of its players ({', '.join(players)})")
        usual: dict[str, Any] = {
            "stream": self.stream(name, self.recipe.batch_size),
            "epochs": self.recipe.epochs,
            "deployed": deployed,
            "teacher": self.teachers[0] if self.teachers else None,
            "recall": self.recall,
            "teacher_images": lambda: sum(link.image_count for link in self.chain),
            "teacher_images_run": lambda: sum(link.run_count for link in self.chain),
        }
        if deployed is not None:
            usual |= {"evaluate": lambda: self.scores(players[deployed]), "select": self.main.select}
            if (enough := self.recipe.stop_at) is not None:
                usual["until"] = lambda scores: scores[self.main.name] >= enough
        stage = Stage(name, players, updates, **{**usual, **changes})
        if self.recipe.fast:
            return replace(stage, epochs=1, stream=FirstBatches(stage.stream))
        return stage

    def recall(self, model: Model, batch: Batch) -> Outputs:
        """Returns the outputs of a frozen model for a batch; those of a trained model come from its teacher table."""
        if isinstance(model, Trained):
            return self.tables.recall(model, batch, self.data, self.runtime)
        return model(batch.images)

    def stream(self, name: str, batch_size: int) -> Stream:
        """Returns the training stream of the stage called ``name``."""
        data, of_subset = self.data, self.plan.subset
        split, places = (data.subset, data.subset_places) if of_subset else (data.train, data.train_places)
        return Stream(split, places, data.source, batch_size, self.plan.seed, name, self.runtime.device)

    def scores(self, model: nn.Module, split: str = "val") -> Scores:
        """Returns the task's scores of ``model`` on a split; leaves it in eval mode."""
        source = self.data.source
        logits, targets = self.predict(model, split)
        if source.task == "translation":
            logits, targets = (pixels(images, source.mean, source.std) for images in (logits, targets))
        return measure(source.task, logits, targets)

    @property
    def evaluation_batch(self) -> int:
        """The images per batch of a split: without gradients there is memory for large batches, which are faster."""
        return max(256, self.recipe.batch_size)

    def batches(self, split: str) -> Iterator[Batch]:
        """Yields the batches of a split (``val``, ``test``), in order and without augmentation."""
        return batches(getattr(self.data, split), self.data.source, self.evaluation_batch, self.runtime.device)

    def predict(self, model: nn.Module, split: str) -> tuple[Tensor, Tensor]:
        """Returns the logits of ``model`` on a split and the targets; leaves it in eval mode."""
        return predict(model.eval(), self.batches(split))

    def trained(
        self, model: Node, method: Node | None = None, teacher: Trained | None = None, plan: Plan | None = None
    ) -> Trained:
        """Returns a model trained by ``method`` under ``teacher``: from the store, or trained now and stored.

        Args:
            model: the node of the model.
            method: the node of the method; None trains without a teacher, by the task's ``baseline``.
            teacher: the teacher of that training; None if it has none.
            plan: the plan of that training; ``teacher_plan`` if None.
        """
        method, plan = method or self.baseline, plan or self.teacher_plan
        fields = self.key_fields(model, method, teacher, plan)
        for link in self.chain:
            if (link.key, link.taps) == (key(fields), self.taps(model)):
                return link
        net = self.built(model, plan.seed)
        with seeded(plan.seed):  # later random numbers must not depend on whether the model was trained or loaded
            folder, manifest = self.store.get(
                model["name"], fields, lambda folder: self._train(folder, net, model, method, teacher, plan)
            )
        if difference := differences(self.runtime.environment(), manifest["environment"]):
            self.notice(f"{folder.name} was trained elsewhere: {difference}; a retraining may differ in the last bits")
        path = folder / "model.safetensors"
        loading.fill(net.model, loading.read(path), path, model["name"])
        trained = Trained(freeze(self.compiled(net)), model["name"], manifest["key"], manifest["scores"], folder)
        self.chain.append(trained)
        return trained

    def _train(
        self, folder: Path, net: Tapped, model: Node, method: Node, teacher: Trained | None, plan: Plan
    ) -> dict[str, Any]:
        """Trains ``net``, the model of the node ``model``, in ``folder``; returns the content of its manifest."""
        teachers = (teacher,) if teacher else ()
        exp = replace(self, student_node=model, teachers=teachers, plan=plan, chain=list(teachers))
        exp = replace(exp, student=exp.compiled(net))
        record = Record(folder, f"{model['name']} by {method['name']}", self.listen)
        try:
            scores, deployed = exp.follow(
                exp.method(method), journals(record, self.key_fields(model, method, teacher, plan))
            )
            self.check_link(deployed, exp.student, method["name"])
            record.check_place()
            record.text("model", str(model))  # not before: TensorBoard's import would delay the first step
            weights.write(folder / "model.safetensors", exp.student.model)
            return {"files": record.digests(), "scores": scores, "environment": self.runtime.environment()}
        finally:
            record.close()

    def check_link(self, deployed: nn.Module, student: nn.Module, name: str) -> None:
        """Refuses a model for the chain whose method deploys more than the student: only the student is stored.

        Args:
            deployed: the module that the method deploys.
            student: the model that is stored.
            name: the name of the method.

        Raises:
            ConfigError: if ``deployed`` is not ``student``.
        """
        if deployed is not student:
            raise ConfigError("method", f"{name} deploys more than its student, so it cannot train a model of a chain")

    def key_fields(self, model: Node, method: Node, teacher: Trained | None, plan: Plan) -> dict[str, Any]:
        """Returns everything that a trained model depends on; its key in the store is the hash of this."""
        fields = key_fields(model, method, teacher, plan, self.data, self.runtime.precision, self.builder)
        return {**fields, "table": "fp16"} if teacher and self.tables.is_rounded else fields

    def follow(self, method: AnyMethod, journals: Journals) -> Outcome:
        """Trains the stages of ``method`` in order; finished stages are loaded, and a stopped one is resumed."""
        return follow(method.stages(self), self.plan.seed, self.recipe, self.runtime, journals)


def build_method(builder: Builder, node: Node, seed: int, where: str = "method") -> AnyMethod:
    """Returns the method of ``node``; ``seed`` determines the weights of its own modules."""
    with seeded(derive(seed, "method", repr(sorted(node.items())))):
        method: AnyMethod = builder.build(node, where=where, kinds=[METHOD])
    return method
