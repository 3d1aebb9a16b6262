"""Trained models: initial weights, the plan by which one is trained, and what there is of it afterwards."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdrun.config.build import build, target
from kdrun.config.nodes import Node, bare, nameless
from kdrun.data.source import Source
from kdrun.data.splits import Data
from kdrun.errors import ConfigError
from kdrun.models.loading import SUFFIXES
from kdrun.store import files
from kdrun.train.runtime import derive, drawn
from kdrun.train.stage import Outputs, Scores
from kdrun.train.taps import Renormalized, Tapped
from kdrun.train.training import Recipe

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

    @property
    def asked(self) -> int:
        """How many images the model has been shown so far, in part or whole; what its knowledge costs."""
        net = self.model if isinstance(self.model, Tapped) else self.model.model
        return net.asked


def fields(
    model: Node,
    method: Node,
    teacher: Trained | None,
    plan: Plan,
    data: Data,
    precision: str,
    trust: tuple[str, ...],
) -> dict[str, Any]:
    """Returns all that ``model`` depends on once it is trained, and nothing else: names and taps are left out."""
    source = data.source
    return {
        "model": bare(model),
        "task": [source.task, source.channels, source.classes, source.size],
        "data": data.digest,
        "split": [source.val_fraction, source.split_seed, source.train_size if plan.few else None],
        "look": [source.mean, source.std, source.crop, source.flip, source.pad_to],
        "recipe": nameless(plan.node),
        "fast": plan.fast,
        "precision": precision,
        "method": nameless(method),
        "teacher": teacher.key if teacher else None,
        "seed": plan.seed,
        "sources": sorted(sources([model, method, plan.node], trust)),
    }


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
    if isinstance(nodes, str) and nodes.endswith(SUFFIXES) and Path(nodes).is_file():
        yield files.digest(Path(nodes))


def fresh(
    node: Node, seed: int, source: Source, device: torch.device, trust: tuple[str, ...], where: str = "student"
) -> Tapped:
    """Returns the model of ``node``, built for ``source``, its initial weights drawn from the seed and the node."""
    core, taps = bare(node), node.get("taps", ())
    if isinstance(taps, str):
        raise ConfigError(f"{where}.taps", f"{taps!r} is not a list; write [{taps}]")
    with drawn(derive(seed, "student", repr(sorted(core.items())))):
        model = build(core, source.channels, source.classes, source.size, where=where, trust=trust)
    if getattr(model, "channels_last", False):
        model.to(memory_format=torch.channels_last)
    try:
        return Tapped(model, taps).to(device)
    except AttributeError as error:
        raise ConfigError(f"{where}.taps", str(error)) from error
