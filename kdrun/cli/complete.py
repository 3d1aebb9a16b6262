"""Completion by the tab key: Hydra's own, taught that commands and flags may stand among the overrides."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from kdrun.cli import COMMANDS
from kdrun.cli.flags import Parser, known, parse
from kdrun.cli.launch import launch
from kdrun.config.options import Options
from kdrun.config.root import GROUPS


def main(argv: list[str]) -> int:
    """Prints what completes the line in ``COMP_LINE``, or with ``install=SHELL`` what to evaluate for that."""
    parser = Parser(add_help=False)
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    parser.add_argument("what", nargs="*")
    asked = parser.parse_intermixed_args(argv)
    if not any(word.startswith("query=") for word in asked.what):
        return launch(print, ["--shell-completion", *asked.what])
    with suppress(Exception):  # whoever is still typing has no use for one, whatever it is
        return complete(os.environ.get("COMP_LINE", ""), asked.what)
    return 0


def complete(line: str, query: list[str]) -> int:
    """Prints what the last word of ``line`` may become.

    Args:
        line: as typed so far; the word that it ends with is empty behind a space.
        query: what the shell asked for, in Hydra's spelling.
    """
    program, *words = line.split() if line.endswith(" ") else line.split()[:-1]
    last = "" if line.endswith(" ") else line.split()[-1]
    if not words:
        offer(last, COMMANDS)
    command = words.pop(0) if words and words[0] in COMMANDS else "train"
    if command != "train":
        offer(last, GROUPS if command == "ls" else ())
        return 0
    if last.startswith("-"):
        offer(last, re.findall(r"--[\w-]+", known().format_help()))
        return 0
    flags = parse(shlex.split(" ".join(words)))
    overrides = [word for word in flags.overrides if " " not in word]  # such a word chooses no option
    key, is_value, _ = last.partition("=")
    if is_value and "." in key:
        offer(last, nested(key, overrides, flags.config_dir))
        return 0
    os.environ["COMP_LINE"] = " ".join([program, *overrides, last])  # Hydra reads no argument but this
    return launch(print, ["--shell-completion", *query], flags.config_dir)


def nested(key: str, overrides: list[str], config_dir: Path | None) -> list[str]:
    """Returns the choices at a dotted ``key``, ``teacher.recipe=sgd200``, which Hydra knows by another name."""
    options = Options(config_dir)
    group = options.nested(overrides).get(key)
    return [f"{key}={name}" for name in options.names(group)] if group else []


def offer(start: str, words: Iterable[str]) -> None:
    """Prints those of ``words`` that begin with ``start``."""
    for word in dict.fromkeys(words):
        if word.startswith(start):
            print(word)
