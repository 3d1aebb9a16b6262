"""Trained models: their initial weights, the plan of their training, and the result."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.config.build import Builder, is_node
from kdrun.config.kinds import MODEL, OPTIMIZER, SCHEDULE
from kdrun.config.nodes import Node, architecture, without_names
from kdrun.data.source import Source
from kdrun.data.splits import Data
from kdrun.errors import ConfigError
from kdrun.models.loading import SUFFIXES
from kdrun.store import files
from kdrun.train.loop import Recipe
from kdrun.train.runtime import derive, fits, seeded
from kdrun.train.stage import Outputs, Scores
from kdrun.train.taps import Renormalized, Tapped

OURS = ("kdrun", "torch", "torchvision")


@dataclass(frozen=True)
class Plan:
    """The recipe, the seed and the part of the training data for one training.

    Args:
        node: the recipe as configured; part of the trained model's key.
        seed: the seed of initial weights, batches and everything else that is random.
        subset: whether to train on the subset of ``dataset.train_size`` images, as the student does.
        fast: see ``Recipe``.
    """

    node: Node
    seed: int
    subset: bool
    fast: bool = False

    def recipe(self, builder: Builder) -> Recipe:
        """Returns the recipe that the node describes."""
        node = self.node
        return Recipe(
            epochs=node["epochs"],
            batch_size=node["batch_size"],
            optimizer=lambda params: builder.build(node["optimizer"], params, where="optimizer", kinds=[OPTIMIZER]),
            schedule=builder.build(node["schedule"], where="schedule", kinds=[SCHEDULE]),
            stop_at=node.get("stop_at"),
            fast=self.fast,
        )


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model, frozen: a teacher, an assistant, a previous student, or the baseline.

    Args:
        model: the model in eval mode; it maps normalized images to ``Outputs``.
        name: its name in the config.
        key: the sha256 of everything that it depends on.
        scores: its scores on the validation split, and the costs of its training.
        folder: the folder of its record; None for an external checkpoint.
    """

    model: Tapped | Renormalized
    name: str
    key: str
    scores: Scores
    folder: Path | None = None

    def __call__(self, images: Tensor) -> Outputs:
        outputs: Outputs = self.model(images)
        return outputs

    def until(self, images: Tensor, tap: int) -> Tensor:
        """Returns the output of one tap; the layers after it are not run."""
        return self.model.until(images, tap)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yields all weights."""
        return self.model.parameters()

    def shapes(self, images: Tensor) -> list[torch.Size]:
        """Returns the shapes of logits and features for each of ``images``, which do not count as run on."""
        with torch.no_grad():
            logits, features = self(images)
        self.count(-len(images), -len(images))
        return [part.shape[1:] for part in (logits, *features)]

    def count(self, requested: int, ran: int) -> None:
        """Adds to the images that were requested, and to those that the model was run on."""
        self._tapped.count(requested, ran)

    @property
    def image_count(self) -> int:
        """How many images its outputs were asked for so far, whole or those of a tap."""
        return self._tapped.image_count

    @property
    def run_count(self) -> int:
        """How many images the model was run on so far; a teacher table has answered for the others."""
        return self._tapped.run_count

    @property
    def taps(self) -> list[str]:
        """The taps whose outputs it returns."""
        return self._tapped.taps

    @property
    def _tapped(self) -> Tapped:
        return self.model if isinstance(self.model, Tapped) else self.model.model


def key_fields(
    model: Node,
    method: Node,
    teacher: Trained | None,
    plan: Plan,
    data: Data,
    precision: str,
    builder: Builder,
) -> dict[str, Any]:
    """Returns everything that the trained ``model`` depends on, and nothing else: names and taps are left out."""
    source = data.source
    shared = {} if source.view_seed is None else {"view_seed": source.view_seed}
    return {
        **shared,
        "model": architecture(model),
        "task": [source.task, source.channels, source.classes, source.size],
        "data": data.digest,
        "split": [source.val_fraction, source.split_seed, source.train_size if plan.subset else None],
        "normalization": [source.mean, source.std],
        "augmentation": [source.crop, source.flip, source.pad_to],
        "recipe": without_names(plan.node),
        "fast": plan.fast,
        "precision": precision,
        "method": without_names(method),
        "teacher": teacher.key if teacher else None,
        "seed": plan.seed,
        "sources": sorted(sources([model, method, plan.node], builder)),
    }


def sources(nodes: Any, builder: Builder) -> Iterator[str]:
    """Yields the sha256 of all files that ``nodes`` name: weight files, and the code of the user's own classes."""
    if isinstance(nodes, dict):
        path = nodes.get("_target_")
        if isinstance(path, str) and path.partition(".")[0] not in OURS:
            code = inspect.getfile(builder.target(nodes, path))
            yield hashlib.sha256(Path(code).read_bytes()).hexdigest()
        nodes = list(nodes.values())
    if isinstance(nodes, list):
        for node in nodes:
            yield from sources(node, builder)
    if isinstance(nodes, str) and nodes.endswith(SUFFIXES) and Path(nodes).is_file():
        yield files.digest(Path(nodes))


def reads(builder: Builder, node: Node) -> frozenset[str]:
    """Returns what the method of ``node`` reads of models, including what the methods nested in it read."""
    nested = [reads(builder, value) for value in node.values() if is_node(value)]
    own: frozenset[str] = getattr(builder.target(node, "method"), "reads", frozenset())
    return own.union(*nested)


def initialised(
    node: Node, seed: int, source: Source, device: torch.device, builder: Builder, where: str, tapped: bool
) -> Tapped:
    """Returns the model of ``node``; its initial weights depend only on the seed and its architecture.

    Args:
        node: the node of the model.
        seed: the seed of the weights.
        source: the data set, which determines the shape of the images and the classes.
        device: the device to put the model on.
        builder: builds objects from config nodes.
        where: the dotted key of ``node``, for errors.
        tapped: whether to return the outputs of its taps.

    Raises:
        ConfigError: if it cannot be built, does not take the images, lacks a tap, or overwrites a tap's output in
            place.
    """
    core, taps, shape = architecture(node), node.get("taps", ()), (source.channels, source.classes, source.size)
    images = f"{source.channels}x{source.size}x{source.size}"
    with (
        fits(where, f"for images of {images} its weights need"),
        seeded(derive(seed, "student", repr(sorted(core.items())))),
    ):
        model = builder.build(core, *shape, where=where, kinds=[MODEL])
    if getattr(model, "channels_last", False):
        model.to(memory_format=torch.channels_last)
    try:
        net = Tapped(model, taps if tapped else ()).to(device)
    except AttributeError as fault:
        raise ConfigError(f"{where}.taps", str(fault)) from fault
    try:
        with fits(where, f"for images of {images} it needs"):
            shapes(net, source, device)
    except ConfigError as fault:
        raise ConfigError(where if fault.where == where else f"{where}.{fault.where}", fault.what) from fault
    except (RuntimeError, AssertionError) as fault:
        raise ConfigError(where, f"does not take images of {images}: {str(fault).splitlines()[0]}") from fault
    return net


def untrained_key(node: Node, seed: int) -> str:
    """Returns what the initial weights and the taps of the model of ``node`` depend on, in one experiment."""
    return repr((sorted(architecture(node).items()), node.get("taps", ()), seed))


def shapes(net: Tapped | Renormalized, source: Source, device: torch.device) -> list[torch.Size]:
    """Returns the shapes (1, ...) of the tapped features, found by tracing."""
    tapped, was = net if isinstance(net, Tapped) else net.model, net.training
    if not tapped.taps:
        return []
    with torch.no_grad():
        images = torch.zeros(1, source.channels, source.size, source.size, device=device)
        features = net.eval()(images).features
    net.train(was)
    return [feature.shape for feature in features]
