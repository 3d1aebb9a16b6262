"""YAML from anywhere as plain data: what a text may hold is bounded before it is parsed and before it is expanded."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import KeyValidationError, OmegaConfBaseException
from yaml import events

from kdrun.config.values import CONTROL
from kdrun.errors import ConfigError

BYTES = 1 << 20
"""Largest size of a text: a config has some kilobytes."""
VALUES = 10_000
"""Largest number of keys and values, with aliases expanded: the largest shipped config has some hundred."""
DEPTH = 32
"""Largest depth of nesting: a shipped config has a depth of 6."""
LETTERS = 4096
"""Longest single key or value: the longest path of most systems."""
LETTERS_OF_INTERPOLATION = 256
"""Longest value with ``${``: OmegaConf parses it by recursion."""

NULLS = ("", "~", "null", "Null", "NULL")


class _Refusal(Exception):
    """What is wrong with a text, and the line where, from 1; 0 where it is the text as a whole."""

    def __init__(self, what: str, line: int = 0) -> None:
        super().__init__(what)
        self.line = line


def read_yaml(path: Path, name: str = "") -> dict[str, Any]:
    """Returns the content of a YAML file, as ``parse_yaml`` does; no more than ``BYTES`` of it are read.

    Args:
        path: the file.
        name: what it is called in an error; its path if empty.

    Raises:
        ConfigError: as ``parse_yaml`` does; also if it is no regular file, or cannot be read.
    """
    name = name or str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise ConfigError(name, "is not a file")
        with path.open("rb") as file:
            content = file.read(BYTES + 1)
    except OSError as fault:
        raise ConfigError(name, f"cannot be read ({fault.strerror})") from fault
    return parse_yaml(content, name)


def parse_yaml(text: str | bytes, name: str) -> dict[str, Any]:
    """Returns the mapping in ``text`` as plain data: dicts with text as keys, lists, texts, numbers, booleans, None.

    Numbers are those of OmegaConf: ``1e-3`` is one. ``${...}`` stays text. A text without content is an empty dict.

    Args:
        text: YAML; bytes are UTF-8.
        name: the file of ``text``, for an error.

    Raises:
        ConfigError: naming the file, and the line where it is known, if ``text`` is not YAML or not a mapping; is too
            large, nested too deeply, or expands to too much by aliases; has a tag, a key twice, a key that is not text,
            or a control character.
    """
    try:
        text = _decoded(text)
        _check_events(text)
        content = OmegaConf.to_container(OmegaConf.load(StringIO(text)), resolve=False)
        return dict(_checked(content))
    except _Refusal as refusal:
        raise ConfigError(f"{name}:{refusal.line}" if refusal.line else name, str(refusal)) from refusal
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(where, f"cannot be read as YAML: {fault.problem or fault.context}") from fault
    except yaml.reader.ReaderError as fault:
        raise ConfigError(name, "cannot be read as YAML: it has a control character") from fault
    except KeyValidationError as fault:  # it names the key's Python class
        raise ConfigError(name, "has a key that is neither text nor a number; put it in quotes") from fault
    except (yaml.YAMLError, OmegaConfBaseException, ValueError) as fault:
        raise ConfigError(name, f"cannot be read as YAML: {str(fault).partition(chr(10))[0]}") from fault


def _decoded(text: str | bytes) -> str:
    if len(text) > BYTES:
        raise _Refusal(f"is larger than {BYTES} bytes, too large for a config")
    try:
        return text if isinstance(text, str) else text.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise _Refusal("is not UTF-8") from fault


def _check_events(text: str) -> None:
    """Checks what the parser says before anything is built: it neither recurses nor expands aliases."""
    size = _Size()
    documents = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1
        if isinstance(event, events.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise _Refusal("holds several documents; a config is one", line)
        elif isinstance(event, events.CollectionEndEvent):
            size.close()
        elif isinstance(event, events.NodeEvent):
            _check_node(event, line)
            size.add(event, line)


def _check_node(event: events.NodeEvent, line: int) -> None:
    if getattr(event, "tag", None) is not None:
        raise _Refusal(f"a tag ({event.tag}) is not allowed in a config", line)
    if isinstance(event, events.ScalarEvent):
        if len(event.value) > LETTERS:
            raise _Refusal(f"a value of {len(event.value)} characters is too long for a config", line)
        if "${" in event.value and len(event.value) > LETTERS_OF_INTERPOLATION:
            raise _Refusal(f"an interpolation of {len(event.value)} characters is too long", line)
        if CONTROL.search(event.value):
            raise _Refusal("a control character is not allowed in a config", line)


def _is_null(event: events.NodeEvent) -> bool:
    return isinstance(event, events.ScalarEvent) and event.style is None and event.value in NULLS


class _Size:
    """Counts the values of a text as if its aliases were expanded, and the depth of its nesting."""

    def __init__(self) -> None:
        self.anchors: dict[str, tuple[int, int]] = {}
        """Number of values and depth of each anchor."""
        self.open: list[list[Any]] = []
        """Of each open collection: anchor, number of values, depth of what is in it."""

    def add(self, event: events.NodeEvent, line: int) -> None:
        """Counts a value that begins on ``line``."""
        if not (self.open or isinstance(event, events.MappingStartEvent) or _is_null(event)):
            raise _Refusal("is not a mapping of keys to values", line)
        if isinstance(event, events.CollectionStartEvent):
            self.open.append([event.anchor, 1, 0])
            self._check(1, 0, line)
        elif isinstance(event, events.AliasEvent):
            self._count(*self._expanded(event.anchor, line), line)
        else:
            self._count(1, 0, line)
            self.anchors[event.anchor] = 1, 0

    def close(self) -> None:
        """Counts the collection that ends as part of the one around it."""
        anchor, count, depth = self.open.pop()
        self.anchors[anchor] = count, depth + 1
        if self.open:
            self._count(count, depth + 1, 0)

    def _expanded(self, anchor: str, line: int) -> tuple[int, int]:
        if any(anchor == inside for inside, *_ in self.open):
            raise _Refusal(f"the alias *{anchor} refers to what it is part of", line)
        return self.anchors.get(anchor, (1, 0))  # an unknown one is an error of the parser

    def _count(self, count: int, depth: int, line: int) -> None:
        if self.open:
            holder = self.open[-1]
            holder[1] += count
            holder[2] = max(holder[2], depth)
        self._check(count, depth, line)

    def _check(self, count: int, depth: int, line: int) -> None:
        if len(self.open) + depth > DEPTH:
            raise _Refusal(f"is nested deeper than {DEPTH} levels, too deep for a config", line)
        if sum(size for _, size, _ in self.open) > VALUES:
            raise _Refusal(f"has more than {VALUES} values, aliases expanded, too many for a config", line)


def _checked(value: Any, where: str = "") -> Any:
    """Returns plain ``value`` if its keys are text and its numbers have a reasonable size."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise _Refusal(f"the key {key!r}{_at(where)} is not text; write it in quotes")
    if isinstance(value, int) and value.bit_length() > 64:
        raise _Refusal(f"the number{_at(where)} is too large")
    for key, item in _items(value):
        _checked(item, f"{where}.{key}" if where else f"{key}")
    return value


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _at(where: str) -> str:
    return f" at {where}" if where else ""
