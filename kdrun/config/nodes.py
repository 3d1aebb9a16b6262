"""Nodes: the parts of a config that name a class and its arguments, and what of them makes a model what it is."""

from __future__ import annotations

from typing import Any

Node = dict[str, Any]

SCRATCH: Node = {"_target_": "kdrun.methods.scratch.Scratch", "label_smoothing": 0.0, "name": "scratch"}
"""How a classifier is trained where nobody teaches it."""

ALONE: dict[str, Node] = {
    "classification": SCRATCH,
    "translation": {
        "_target_": "kdrun.methods.reconstruction.Reconstruction",
        "distance": "epe",
        "name": "reconstruction",
    },
}
"""How a model is trained where nobody teaches it, by the task."""

MODEL_ONLY = frozenset({"name", "taps", "recipe", "seed", "checkpoint", "mean", "std"})
"""Keys of a model's node that are not arguments of its class."""


def bare(node: Node) -> Node:
    """Returns the part of a model's node that makes the network: its class and arguments."""
    return {key: value for key, value in node.items() if key not in MODEL_ONLY}


def nameless(node: Any) -> Any:
    """Returns ``node`` without the names that its options have in conf/: another name is not another thing."""
    if isinstance(node, dict):
        return {key: nameless(value) for key, value in node.items() if not (key == "name" and "_target_" in node)}
    return [nameless(value) for value in node] if isinstance(node, list) else node
