"""The texts of ``kdrun --help`` and ``kdrun train --help``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from kdrun.cli import COMMANDS
from kdrun.config.options import Options
from kdrun.config.places import CONF
from kdrun.config.root import GROUPS, Root

EXAMPLES = """\
examples:
  kdrun train                                            digits, in a minute, without a download
  kdrun train dataset=mnist student=mlp_800 epochs=20    other data, another student
  kdrun train -m method=scratch,kd seed=0,1,2            a sweep of six runs, with a table at the end
  kdrun train resume=outputs/NAME                        go on with a run that was stopped
  kdrun ls method                                        the methods, one line each"""

FLAGS = """\
flags (anywhere on the line):
  -m, --multirun      run every combination of the values given: seed=0,1,2 or seed=range(3)
  --cfg job           print the config and stop; with --resolve, without ${...}
  --config-dir DIR    look for YAML files there too (conf/ of the working directory is always looked in)
  --info WHAT         how the config is composed: searchpath, defaults, defaults-tree, plugins, config, all
  --hydra-help        Hydra's own flags
  --shell-completion install=bash   prints what to eval for completion by the tab key
  -h, --help          print this"""


def main(argv: list[str]) -> int:
    """Prints the help of ``kdrun``."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    print(
        "kdrun: the knowledge-distillation lab that fits in one command",
        "usage: kdrun [COMMAND] [FLAGS] [GROUP=OPTION ...] [KEY=VALUE ...]",
        f"commands (kdrun COMMAND --help says more):\n{commands}",
        groups(Options()),
        EXAMPLES,
        FLAGS + "\n  --version           print the version",
        sep="\n\n",
    )
    return 0


def train_usage(config_dir: Path | None) -> str:
    """Returns the help of ``kdrun train``: groups, keys with their defaults, flags, examples."""
    usage = "usage: kdrun train [FLAGS] [GROUP=OPTION ...] [KEY=VALUE ...]"
    more = (
        "Keys of what was chosen follow its group: optimizer.lr=0.1 method.temperature=2 teacher.recipe.epochs=5;\n"
        "kdrun train --cfg job prints them all. recipe=NAME sets epochs, batch_size, optimizer and schedule; the\n"
        "teacher has a recipe of its own: teacher.recipe=NAME, teacher.recipe.optimizer=sgd."
    )
    return "\n\n".join([usage, groups(Options(config_dir)), keys(), more, EXAMPLES, FLAGS])


def groups(options: Options) -> str:
    """Returns the options of each group, at most eight of them."""
    lines = []
    for group in GROUPS:
        names = options.names(group)
        rest = f" ... ({len(names)}; kdrun ls {group})" if len(names) > 8 else ""
        lines.append(f"  {group:10}  {' '.join(names[:8])}{rest}")
    return "groups (GROUP=OPTION):\n" + "\n".join(lines)


def keys() -> str:
    """Returns the keys of the root with their defaults, ranges, and comments from the shipped train.yaml."""
    hints = get_type_hints(Root, include_extras=True)
    lines = []
    for line in (CONF / "train.yaml").read_text("utf-8").splitlines():
        match = re.fullmatch(r"(\w+): (\S+)\s*(?:# (.*))?", line)
        if match and match[1] in hints:
            about = "  ".join(filter(None, (taken(hints[match[1]]), match[3])))
            lines.append(f"  {match[1] + '=' + match[2]:20}  {about}".rstrip())
    return "keys (KEY=VALUE), with their defaults:\n" + "\n".join(lines)


def taken(hint: Any) -> str:
    """Returns the range of a value; an empty string if it is not short."""
    if get_origin(hint) is Annotated:
        return next((mark for mark in get_args(hint)[1:] if isinstance(mark, str)), "")
    return "true or false" if hint is bool else ""
