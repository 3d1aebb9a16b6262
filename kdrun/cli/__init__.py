"""The command line: runs a command and returns its exit code."""

from __future__ import annotations

import os
import re
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from kdrun import __version__
from kdrun.config.suggest import did_you_mean
from kdrun.errors import ConfigError, KdrunError, printable
from kdrun.run.endings import explanation

LETTERS = 1000
"""Longest error: it may quote what is wrong, which may be of any length."""

COMMANDS = {
    "train": "train a student: the default where the first word is an override or a flag",
    "report": "compare runs: tables of measured and claimed scores, costs, loss curves",
    "ls": "list the options of a group, or of all",
}
"""Each is a module of this package with ``main(argv) -> int``, imported when it is used."""


def script() -> None:
    """Runs the command line of this process, then ends the process with its exit code."""
    sys.exit(main())


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; never raises.

    Codes: 0 done, 1 training failed, 2 config, 3 input file, 4 cannot write, 5 run folder in use, 128 + n signal n. An
    error is printed as one line on stderr; its traceback is added if the environment has ``HYDRA_FULL_ERROR=1``.

    Args:
        argv: the arguments of the command line; those of this process if None.
    """
    try:
        code = dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # here, so that a closed pipe (`| head`) does not cause a traceback at exit
        return code
    except BrokenPipeError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("kdrun: interrupted", file=sys.stderr)
        return 130
    except Exception as fault:
        return complain(fault)


def dispatch(argv: list[str]) -> int:
    """Runs the command that ``argv`` begins with; ``train`` if it begins with an override or a flag.

    Raises:
        ConfigError: if the first word is no command, no override and no flag.
    """
    if "--version" in argv:
        print(f"kdrun {__version__}")
        return 0
    if {"-sc", "--shell-completion"} & set(argv):
        command = "complete"
    elif not argv or argv[0] in ("-h", "--help"):
        command = "usage"
    elif argv[0] in COMMANDS:
        command = argv.pop(0)
    elif re.fullmatch(r"\w[\w-]*", argv[0]):
        meant = did_you_mean(argv[0], COMMANDS)
        raise ConfigError(argv[0], f"no such command (have: {', '.join(COMMANDS)}){meant}")
    else:
        command = "train"
    code: int = import_module(f"kdrun.cli.{command}").main(argv)
    return code


def complain(fault: Exception, job: str = "", traced: str | None = None) -> int:
    """Prints ``fault`` in one line on stderr and returns its exit code.

    Args:
        fault: the error.
        job: the name of the job of a sweep; empty for a single run.
        traced: "1" to print the traceback too; the value of ``HYDRA_FULL_ERROR`` if None.
    """
    if (os.environ.get("HYDRA_FULL_ERROR") if traced is None else traced) == "1":
        traceback.print_exception(fault)
    if isinstance(explained := explanation(fault, Path()), KdrunError):
        fault = explained
    text = str(fault) if isinstance(fault, KdrunError) else f"{type(fault).__name__}: {fault}"
    line = printable(" ".join(["kdrun: error:", *([f"{job}:"] if job else []), *text.split()]))
    print(line if len(line) <= LETTERS else f"{line[: LETTERS - 4]} ...", file=sys.stderr)
    return fault.exit_code if isinstance(fault, KdrunError) else 1
