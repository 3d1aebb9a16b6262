"""Writes docs/methods.md, the catalogue of all methods, from their YAML files and their classes.

    python scripts/catalogue.py            writes the file
    python scripts/catalogue.py --check    exits with 1 if the file is not what it would write

A section for each class, in the order of conf/method: what it does and where it is from (its docstring), its arguments
(the string below each field), and its presets, one for each YAML file, with their headers and the arguments in which
they differ. tests/test_catalogue.py checks that the file is up to date.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from itertools import pairwise, takewhile
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any, get_args, get_origin

from kdrun.config.build import Builder, hints_of
from kdrun.config.compose import Composer
from kdrun.config.places import CONF
from kdrun.methods.base import AnyMethod

PAGE = Path(__file__).resolve().parent.parent / "docs" / "methods.md"

HEAD = """\
# Methods

All methods that `kdrun ls method` lists: what each minimizes, where it is from, what it takes, what was measured.
`kdrun train method=NAME` runs one; `method.ARGUMENT=VALUE` sets an argument. [results.md](results.md) compares them.
This page is written by `scripts/catalogue.py` from the YAML files in `conf/` and the classes in `kdrun/methods/`.
"""


def main() -> int:
    """Writes the page, or compares it; returns the exit code."""
    page = catalogue()
    if "--check" in sys.argv:
        return int(page != PAGE.read_text("utf-8"))
    PAGE.write_text(page, "utf-8")
    return 0


def catalogue() -> str:
    """Returns the page."""
    composer, builder = Composer(), Builder()
    nodes = {name: composer.compose([f"method={name}"])["method"] for name in composer.options.names("method")}
    classes: dict[type[AnyMethod], list[str]] = {}
    for name, node in nodes.items():
        classes.setdefault(builder.target(node, name), []).append(name)  # type: ignore[arg-type]
    measured = measurements(composer)
    sections = [section(cls, {name: nodes[name] for name in names}, measured) for cls, names in classes.items()]
    return "\n".join([HEAD, contents(classes), *sections])


def contents(classes: dict[type[AnyMethod], list[str]]) -> str:
    """Returns a line for each preset, with a link to its class."""
    rows = sorted((name, cls) for cls, names in classes.items() for name in names)
    lines = [f"| [`{name}`](#{cls.__name__.lower()}) | {cell(header('method', name)[0])} |" for name, cls in rows]
    return "\n".join(["| method | |", "|---|---|", *lines, ""])


def section(cls: type[AnyMethod], nodes: dict[str, dict[str, Any]], measured: dict[str, str]) -> str:
    """Returns what there is to say of a class and of its presets."""
    file = f"{cls.__module__.replace('.', '/')}.py"
    needs = "a teacher" if cls.needs_teacher else "no teacher"
    reads = ", ".join(sorted(cls.reads))
    facts = f"Needs {needs}; reads {reads}; for {cls.task}. Source: [`{file}`](../{file})."
    parts = [f"## {cls.__name__}", markdown(inspect.getdoc(cls) or ""), facts, arguments(cls, nodes)]
    first = next(iter(nodes.values()))
    parts += [preset(name, node, first, measured.get(name, "")) for name, node in nodes.items()]
    return "\n\n".join(parts) + "\n"


def markdown(docstring: str) -> str:
    """Returns a docstring as markdown: indented formulas as code blocks, double backquotes as single ones."""
    blocks: list[str] = []
    for line in docstring.replace("``", "`").splitlines():
        if line.startswith("    "):
            opened = bool(blocks) and blocks[-1].startswith("```")
            blocks[-1:] = (
                [*blocks[-1:], "```text\n" + line.strip()] if not opened else [f"{blocks[-1]}\n{line.strip()}"]
            )
        elif blocks and not blocks[-1].startswith("```"):
            blocks[-1] += f"\n{line}"
        else:
            blocks.append(line)
    return "\n\n".join(f"{block}\n```" if block.startswith("```") else block.strip() for block in blocks)


def arguments(cls: type[AnyMethod], nodes: dict[str, dict[str, Any]]) -> str:
    """Returns the table of a class's arguments."""
    hints, meanings, rows = hints_of(cls), dict(documented(cls)), []
    for field in (field for field in fields(cls) if field.init):  # type: ignore[arg-type]
        cells = (f"`{field.name}`", taken(hints[field.name]), default(field), meanings[field.name])
        rows.append(f"| {' | '.join(map(cell, cells))} |")
    return (
        "\n".join(["| argument | takes | default | |", "|---|---|---|---|", *rows]) if rows else "It has no arguments."
    )


def cell(text: str) -> str:
    """Returns ``text`` as the cell of a table."""
    return text.replace("|", "\\|")


def documented(cls: type[AnyMethod]) -> Iterator[tuple[str, str]]:
    """Yields each field of a class and of its bases with the string below it."""
    for base in (base for base in reversed(cls.__mro__) if issubclass(base, AnyMethod)):
        body = ast.parse(dedent(inspect.getsource(base))).body[0].body  # type: ignore[attr-defined]
        for statement, below in pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr):
                text = inspect.cleandoc(ast.literal_eval(below.value)).replace("``", "`")
                yield ast.unparse(statement.target), " ".join(text.split())


def taken(hint: Any) -> str:
    """Returns what an annotation takes, its range included."""
    if get_origin(hint) is Annotated:
        kind, *marks = get_args(hint)
        return " in ".join([taken(kind), *(mark for mark in marks if isinstance(mark, str))])
    inner = [taken(part) for part in get_args(hint)]
    if "Literal" in str(get_origin(hint)):
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if "Union" in str(get_origin(hint)):
        return " or ".join(inner)
    if get_origin(hint) in (list, tuple) or "Sequence" in str(get_origin(hint)):
        return f"list of {inner[0]}" if get_origin(hint) is not tuple else f"[{', '.join(inner)}]"
    if get_origin(hint) is dict:
        return "an option by name"
    return {bool: "true or false", float: "number", int: "whole number", type(None): "null"}.get(hint, str(hint))


def default(field: Field[Any]) -> str:
    """Returns a field's default as one writes it on the command line."""
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    return "" if value is MISSING else f"`{written(value)}`"


def written(value: Any) -> str:
    """Returns ``value`` as one writes it on the command line; a node by its name."""
    if isinstance(value, dict):
        return str(value.get("name", value))
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(repr(value), str(value))


def preset(name: str, node: dict[str, Any], first: dict[str, Any], measured: str) -> str:
    """Returns what a YAML file says: its header, its command, and where it differs from the first of its class."""
    what, *notes = header("method", name)
    commands = [note for note in notes if note.startswith("kdrun ")]
    notes = [note for note in notes if note not in commands]
    others = [f"`{key}={written(value)}`" for key, value in node.items() if key != "name" and first.get(key) != value]
    differs = f"\n\nDiffers from `{first['name']}` in {', '.join(others)}." if others else ""
    source = "\n\n" + " ".join(notes) if notes else ""
    shell = "\n".join(commands)
    return f"### {name}\n\n{what}.{source}{differs}\n\n```sh\n{shell}\n```{measured}"


def header(group: str, name: str) -> list[str]:
    """Returns the comment lines at the head of a YAML file: what it is, its source, its commands."""
    lines = takewhile(
        lambda line: line.startswith("#"), (CONF / group / f"{name}.yaml").read_text("utf-8").splitlines()
    )
    head = [re.sub(r"^#\s*", "", line) for line in lines if not line.startswith("# @package")]
    return [line for line in head if line]


def measurements(composer: Composer) -> dict[str, str]:
    """Returns, by method, what was measured in the experiments that it is for, as their headers say."""
    results: dict[str, list[str]] = {}
    for experiment in composer.options.names("experiment"):
        text = " ".join(header("experiment", experiment))
        result = re.search(
            r"Measured: (.*?)(?= (?:On a small machine|To look at|Claimed|Source|Recipe|kdrun)\b|$)", text
        )
        if result:
            name = composer.compose([f"experiment={experiment}"])["method"]["name"]
            results.setdefault(name, []).append(f"- `experiment={experiment}`: {result[1]}")
    return {name: "\n\nMeasured:\n\n" + "\n".join(lines) for name, lines in results.items()}


if __name__ == "__main__":
    sys.exit(main())
