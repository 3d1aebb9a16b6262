"""The flags of ``kdrun train``, which may stand before, between or after its overrides."""

from __future__ import annotations

from argparse import ArgumentParser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Never

from kdrun.errors import ConfigError


@dataclass
class Flags:
    """The flags and overrides of a command line."""

    overrides: list[str] = field(default_factory=list)
    help: bool = False
    multirun: bool = False
    cfg: str | None = None
    resolve: bool = False
    package: str | None = None
    info: str | None = None
    hydra_help: bool = False
    config_dir: Path | None = None

    def for_hydra(self) -> list[str]:
        """Returns the flags that Hydra itself handles, in its own spelling; an empty list if there are none."""
        words: list[str] = []
        if self.cfg not in (None, "job") or self.package:
            words += ["--cfg", self.cfg or "job", *(["--package", self.package] if self.package else [])]
            words += ["--resolve"] if self.resolve else []
        words += ["--info", self.info] if self.info else []
        words += ["--hydra-help"] if self.hydra_help else []
        return words


class Parser(ArgumentParser):
    """An argument parser that raises instead of ending the process."""

    def error(self, message: str) -> Never:
        raise ConfigError("command line", message)


def parse(argv: list[str]) -> Flags:
    """Returns ``argv`` sorted into overrides and flags.

    Raises:
        ConfigError: if a flag is not known, or lacks its value.
    """
    return Flags(**vars(known().parse_intermixed_args(argv)))


def known() -> Parser:
    """Returns the parser of all flags."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    for names in (("-h", "--help"), ("-m", "--multirun"), ("--resolve",), ("--hydra-help",)):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
    parser.add_argument("-p", "--package")
    parser.add_argument("-i", "--info", choices=("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"))
    parser.add_argument("-cd", "--config-dir", type=Path)
    return parser
