"""Names for the lines of a report: as short as tells them apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdrun.report.lines import UNTAUGHT, Line

CLASS = "._target_"


def labels(lines: list[Line]) -> list[str]:
    """Returns a name for each line: model and method, and where these are the same what else sets it apart.

    That is the keys that differ or, of what was taught in an experiment of its own each, the experiments' names.
    """
    plain = [f"{line.name} {line.how if line.how in UNTAUGHT else 'by ' + line.how}" for line in lines]
    found = []
    for line, label in zip(lines, plain, strict=True):
        alike = [other for other, name in zip(lines, plain, strict=True) if name == label]
        found.append(", ".join([label, *differing(line, alike)]))
    return found


def differing(line: Line, alike: list[Line]) -> list[str]:
    """Returns what sets ``line`` apart from the others of ``alike``; nothing where it is the only one."""
    experiments = [other.all[0].run.config["experiment"] for other in alike]
    if line.how not in UNTAUGHT and len(alike) > 1 and None not in experiments and len(set(experiments)) == len(alike):
        return [line.all[0].run.config["experiment"]]
    leaves = [dict(flat(other.all[0].kind)) for other in alike]
    own = dict(flat(line.all[0].kind))
    apart = {key: value for key, value in own.items() if any(other.get(key) != value for other in leaves)}
    nodes = [key.removesuffix(CLASS) for key in apart if key.endswith(CLASS)]  # another class: its name says enough
    alone = {key: value for key, value in apart.items() if not any(key.startswith(f"{node}.") for node in nodes)}
    named = {node: apart[node + CLASS].rpartition(".")[2] for node in nodes}
    return [f"{key}={value}" for key, value in {**named, **alone}.items()]


def flat(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the leaves of nested dicts with their dotted keys."""
    if not isinstance(node, dict):
        yield where, node
        return
    for key, value in node.items():
        yield from flat(value, f"{where}.{key}" if where else key)
