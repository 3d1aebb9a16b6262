"""``kdrun ls``: lists the options of a group, one line each."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from kdrun.cli.flags import Parser
from kdrun.config.options import Options
from kdrun.config.root import GROUPS
from kdrun.config.suggest import did_you_mean
from kdrun.errors import ConfigError, printable


def main(argv: list[str]) -> int:
    """Prints the options of the group that ``argv`` names; those of all groups if it names none.

    Raises:
        ConfigError: if there is no such group.
    """
    parser = Parser(
        prog="kdrun ls",
        description="List the options of a group, or of all groups.",
        epilog="examples:\n  kdrun ls\n  kdrun ls method",
        formatter_class=RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("group", nargs="?", help=", ".join(GROUPS))
    parser.add_argument("-cd", "--config-dir", type=Path, help="a folder of further YAML files")
    parser.add_argument("-h", "--help", action="store_true", help="print this")
    args = parser.parse_args(argv)
    if args.help:
        print(parser.format_help(), end="")
    elif args.group is None:
        print("\n\n".join(f"{group}\n{listing(Options(args.config_dir), group, '  ')}" for group in GROUPS))
    elif args.group in GROUPS:
        print(listing(Options(args.config_dir), args.group))
    else:
        meant = did_you_mean(args.group, GROUPS)
        raise ConfigError(args.group, f"no such group (have: {', '.join(GROUPS)}){meant}")
    return 0


def listing(options: Options, group: str, indent: str = "") -> str:
    """Returns a line for each option of ``group``: its name and the first comment of its file."""
    names = options.names(group)
    width = max(map(len, names), default=0)
    return "\n".join(indent + printable(f"{name:{width}}  {options.header(group, name)}") for name in names)
