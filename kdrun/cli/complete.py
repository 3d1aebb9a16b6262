"""Completion by the tab key: that of Hydra for overrides, with the commands and flags of kdrun added."""

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
from kdrun.errors import ConfigError


def main(argv: list[str]) -> int:
    """Prints the completions of the line in ``COMP_LINE``; with ``install=SHELL``, the script that installs them.

    Raises:
        ConfigError: if it is asked for anything else.
    """
    parser = Parser(add_help=False)
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    parser.add_argument("what", nargs="*")
    args = parser.parse_intermixed_args(argv)
    if not any(word.startswith("query=") for word in args.what):
        if not re.fullmatch(r"(un)?install=(bash|zsh|fish)", " ".join(args.what)):
            raise ConfigError("-sc", "takes install=SHELL or uninstall=SHELL, where SHELL is bash, zsh or fish")
        return launch(print, ["--shell-completion", *args.what])
    with suppress(Exception):  # an error message would disturb a user who is still typing
        return complete(os.environ.get("COMP_LINE", ""), args.what)
    return 0


def complete(line: str, query: list[str]) -> int:
    """Prints the completions of the last word of ``line``.

    Args:
        line: the line typed so far; after a space, its last word is empty.
        query: the arguments that the shell passes to Hydra.
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
    overrides = [word for word in flags.overrides if " " not in word]  # a word with a space chooses no option
    key, is_value, _ = last.partition("=")
    if is_value and "." in key:
        offer(last, nested(key, overrides, flags.config_dir))
        return 0
    options = Options(flags.config_dir)
    for word in overrides:
        options.parse(word)  # an error ends the completion: Hydra would obey its own keys, such as hydra.searchpath
    os.environ["COMP_LINE"] = " ".join([program, *overrides, last])  # Hydra reads the line only from here
    return launch(print, ["--shell-completion", *query], flags.config_dir)


def nested(key: str, overrides: list[str], config_dir: Path | None) -> list[str]:
    """Returns the choices at a dotted ``key``, ``teacher.recipe=sgd200``, which Hydra knows by another name."""
    options = Options(config_dir)
    group = options.nested(overrides).get(key)
    return [f"{key}={name}" for name in options.names(group)] if group else []


def offer(start: str, words: Iterable[str]) -> None:
    """Prints the ``words`` that begin with ``start``."""
    for word in dict.fromkeys(words):
        if word.startswith(start):
            print(word)
