"""Completion by the tab key: Hydra's own, taught that a command may stand before the overrides."""

from __future__ import annotations

import os

from kdrun.cli import COMMANDS
from kdrun.cli.flags import Parser
from kdrun.cli.launch import launch
from kdrun.config.root import GROUPS


def main(argv: list[str]) -> int:
    """Prints what completes the line in ``COMP_LINE``, or with ``install=SHELL`` what to evaluate for that."""
    parser = Parser(add_help=False)
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    parser.add_argument("what", nargs="*")
    asked = parser.parse_intermixed_args(argv)
    if not any(word.startswith("query=") for word in asked.what):
        return launch(print, ["--shell-completion", *asked.what])
    program, _, typed = os.environ.get("COMP_LINE", "").partition(" ")
    command, space, rest = typed.lstrip().partition(" ")
    words = COMMANDS if not space else GROUPS if command == "ls" else ()
    for word in words:
        if word.startswith(rest.lstrip() if space else command):
            print(word)
    if space and command in COMMANDS and command != "train":
        return 0
    overrides = rest if command in COMMANDS else typed
    os.environ["COMP_LINE"] = f"{program} {overrides}"  # Hydra reads no argument but this
    return launch(print, ["--shell-completion", *asked.what])
