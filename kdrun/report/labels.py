"""Labels for the lines of a report, as short as possible but all different."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdrun.report.lines import UNTAUGHT, Line

CLASS = "._target_"


def labels(lines: list[Line]) -> list[str]:
    """Returns a label for each line: its model and method, and its differences from lines with the same two.

    The differences are the config keys that differ; or, if each of these lines is distilled in another experiment, the
    name of the experiment.
    """
    plain = [f"{line.name} {line.how if line.how in UNTAUGHT else 'by ' + line.how}" for line in lines]
    groups: dict[str, list[Line]] = {}
    for line, label in zip(lines, plain, strict=True):
        groups.setdefault(label, []).append(line)
    differences = {label: iter(differing(alike)) for label, alike in groups.items()}
    return [", ".join([label, *next(differences[label])]) for label in plain]


def differing(alike: list[Line]) -> list[list[str]]:
    """Returns how each line differs from the others in ``alike``; an empty list if it is the only one."""
    experiments = [line.all[0].run.config["experiment"] for line in alike]
    named = alike[0].how not in UNTAUGHT and len(alike) > 1 and None not in experiments
    if named and len(set(experiments)) == len(alike):
        return [[experiment] for experiment in experiments]
    leaves = [dict(flat(line.all[0].kind)) for line in alike]
    keys = dict.fromkeys(key for own in leaves for key in own)
    varying = {key for key in keys if any(own.get(key) != leaves[0].get(key) for own in leaves)}
    return [settings({key: value for key, value in own.items() if key in varying}) for own in leaves]


def settings(differing_keys: dict[str, Any]) -> list[str]:
    """Returns ``KEY=VALUE`` for each of the keys; a node of another class is named by its class alone."""
    classes = [key.removesuffix(CLASS) for key in differing_keys if key.endswith(CLASS)]
    named = {node: str(differing_keys[node + CLASS]).rpartition(".")[2] for node in classes}
    # if the classes differ, their names are enough
    rest = {k: v for k, v in differing_keys.items() if not any(k.startswith(f"{node}.") for node in classes)}
    return [f"{key}={value}" for key, value in {**named, **rest}.items()]


def flat(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested dicts with their dotted keys."""
    if not isinstance(node, dict):
        yield where, node
        return
    for key, value in node.items():
        yield from flat(value, f"{where}.{key}" if where else key)
