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
    names = []
    for line, label in zip(lines, plain, strict=True):
        alike = [other for other, name in zip(lines, plain, strict=True) if name == label]
        names.append(", ".join([label, *differing(line, alike)]))
    return names


def differing(line: Line, alike: list[Line]) -> list[str]:
    """Returns how ``line`` differs from the others in ``alike``; an empty list if it is the only one."""
    experiments = [other.all[0].run.config["experiment"] for other in alike]
    if line.how not in UNTAUGHT and len(alike) > 1 and None not in experiments and len(set(experiments)) == len(alike):
        return [line.all[0].run.config["experiment"]]
    leaves = [dict(flat(other.all[0].kind)) for other in alike]
    own = dict(flat(line.all[0].kind))
    differing_keys = {key: value for key, value in own.items() if any(other.get(key) != value for other in leaves)}
    classes = [key.removesuffix(CLASS) for key in differing_keys if key.endswith(CLASS)]
    named = {node: differing_keys[node + CLASS].rpartition(".")[2] for node in classes}
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
