"""The ``${...}`` that a config may hold: another key, or an environment variable of kdrun's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from kdrun.config.tree import dig
from kdrun.errors import ConfigError

KEY = re.compile(r"\$\{\s*(\.*\w[\w.\[\]-]*)\s*\}")
VARIABLE = re.compile(r"\$\{\s*oc\.env\s*:\s*KDRUN_\w+\s*(,[^${}]*)?\}")
"""An environment variable that is kdrun's, with a default: others may hold secrets, which a config must not get."""

DEPTH = 100
"""Most references, and groups of keys, from one value to the last that it is composed of."""
LETTERS = 1_000_000
"""Most letters of a config when it is resolved."""

FOLDERS = ("out", "name")
"""Keys whose values are names of folders; no environment variable gets into them."""


def check_interpolations(value: Any, where: str) -> None:
    """Refuses plain ``value`` with a ``${...}`` that is neither another key nor a variable ``KDRUN_...``.

    Other resolvers of OmegaConf and Hydra build texts that are read as code, or say things about the machine.

    Raises:
        ConfigError: naming ``where``.
    """
    for text in texts(value):
        rest = KEY.sub("", VARIABLE.sub("", text))
        if "${" in rest:
            what = rest[rest.index("${") :][:60]
            if re.match(r"\$\{\s*oc\.env", what):
                raise ConfigError(where, f"{what!r}: of environment variables a config gets only those named KDRUN_...")
            raise ConfigError(where, f"{what!r} is not allowed; ${{KEY}} and ${{oc.env:KDRUN_...,DEFAULT}} are")


def texts(value: Any) -> Iterator[str]:
    """Yields all texts in plain ``value``, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from texts(key)
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def check_expansion(plain: Any) -> None:
    """Refuses an unresolved config whose interpolations go round, or would write too much.

    It also refuses an environment variable that would get into the name of a folder.

    Raises:
        ConfigError: naming the key.
    """
    sizes: dict[str, int] = {}
    if _size(plain, "", sizes, ()) > LETTERS:
        raise ConfigError("config", f"its interpolations write more than {LETTERS} letters; write them out")
    for key in FOLDERS:
        if _has_variable(plain, key, set()):
            raise ConfigError(key, "no environment variable gets into the name of a folder; write it out")


def _size(plain: Any, key: str, sizes: dict[str, int], holders: tuple[str, ...]) -> int:
    """Returns the number of letters that the value at ``key`` has when resolved; ``sizes`` keeps those known."""
    if key in holders:
        raise ConfigError(key, f"refers to itself: ${{{key}}}")
    if len(holders) > DEPTH:
        raise ConfigError(key, f"is more than {DEPTH} references away from where it is used")
    if key not in sizes:
        value = dig(plain, key) if key else plain
        own = len(value) if isinstance(value, str) else 1
        sizes[key] = own + sum(_size(plain, other, sizes, (*holders, key)) for other in _others(value, key))
    return sizes[key]


def _has_variable(plain: Any, key: str, seen: set[str]) -> bool:
    """Whether the value at ``key``, or one that it refers to, holds an environment variable."""
    if key in seen:
        return False
    seen.add(key)
    value = dig(plain, key)
    is_variable = isinstance(value, str) and VARIABLE.search(value) is not None
    return is_variable or any(_has_variable(plain, other, seen) for other in _others(value, key))


def _others(value: Any, key: str) -> Iterator[str]:
    """Yields the dotted keys that ``value`` at ``key`` holds or refers to."""
    if isinstance(value, str):
        for name in KEY.findall(value):
            up = len(name) - len(name.lstrip("."))
            around = key.split(".")[:-up] if up else []
            yield ".".join([*around, name.lstrip(".").replace("[", ".").replace("]", "")])
    elif isinstance(value, dict | list):
        for name in value if isinstance(value, dict) else range(len(value)):
            yield f"{key}.{name}" if key else str(name)
