"""Nodes: the parts of a config that name a class and its arguments, and which keys define a model."""

from __future__ import annotations

from typing import Any

Node = dict[str, Any]

BASELINE: dict[str, Node] = {
    "classification": {"_target_": "kdrun.methods.scratch.Scratch", "label_smoothing": 0.0, "name": "scratch"},
    "translation": {
        "_target_": "kdrun.methods.reconstruction.Reconstruction",
        "distance": "epe",
        "name": "reconstruction",
    },
}
"""The method that trains without a teacher, by task: for teachers and for the baseline."""

MODEL_ONLY = frozenset({"name", "taps", "recipe", "seed", "checkpoint", "mean", "std", "table", "table_precision"})
"""Keys of a model's node that are not arguments of its class."""


def architecture(node: Node) -> Node:
    """Returns the part of a model's node that defines the network: its class and arguments."""
    return {key: value for key, value in node.items() if key not in MODEL_ONLY}


def without_names(node: Any) -> Any:
    """Returns ``node`` without the names of its options in conf/: a different name does not make a different object."""
    if isinstance(node, dict):
        return {key: without_names(value) for key, value in node.items() if not (key == "name" and "_target_" in node)}
    return [without_names(value) for value in node] if isinstance(node, list) else node
