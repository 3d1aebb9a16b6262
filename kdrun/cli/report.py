"""``kdrun report``: several runs as tables of measured beside claimed, with their loss curves."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import OmegaConf
from yaml import YAMLError  # type: ignore[import-untyped]

from kdrun.cli.flags import Parser
from kdrun.errors import ConfigError, InputError
from kdrun.store import files

if TYPE_CHECKING:
    from kdrun.report.lines import Run


def main(argv: list[str]) -> int:
    """Prints the tables of the runs that ``argv`` names and writes report.md, report.csv and figures of the losses.

    Raises:
        ConfigError: if no folder is named.
        InputError: if a folder holds no run, or its record cannot be read.
        WriteError: if the report cannot be written.
    """
    parser = Parser(
        prog="kdrun report",
        description="Compare runs: what was measured beside what was claimed, differences, costs, loss curves.",
        epilog="examples:\n  kdrun report outputs/SWEEP\n  kdrun report outputs/A outputs/B --out outputs/report",
        formatter_class=RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders of runs or of sweeps")
    parser.add_argument("--out", type=Path, help="where to write; the folder itself where one is given, else report/")
    parser.add_argument("-h", "--help", action="store_true", help="print this")
    asked = parser.parse_args(argv)
    if asked.help:
        print(parser.format_help(), end="")
        return 0
    if not asked.runs:
        raise ConfigError("command line", "name the folder of a run or of a sweep: kdrun report outputs/NAME")
    runs, others = read(asked.runs)
    write(runs, others, asked.out or (asked.runs[0] if len(asked.runs) == 1 else Path("report")))
    return 0


def read(folders: list[Path]) -> tuple[list[Run], list[str]]:
    """Returns the finished runs in ``folders``, and what became of the others, a line each.

    Raises:
        InputError: if there is no finished run.
    """
    from kdrun.report.lines import Run  # here: it takes an import of torch

    runs, others = [], []
    for folder in (found for given in folders for found in inside(given)):
        summary = files.read_json(folder / "summary.json") if (folder / "summary.json").is_file() else {}
        done = Run(folder, config(folder), summary)
        if done.config.get("fast_dev_run"):
            others.append(f"{folder}: a quick run (fast_dev_run=true), which measures nothing")
        elif summary.get("status") == "done":
            runs.append(done)
        else:
            others.append(f"{folder}: {summary.get('status', 'not finished')} {summary.get('error', '')}".rstrip())
    if not runs:
        raise InputError(str(folders[0]), "holds no finished run")
    return runs, others


def inside(folder: Path) -> Iterator[Path]:
    """Yields ``folder`` if it is that of a run, else the runs in it and in the sweeps in it.

    Raises:
        InputError: if there is none.
    """
    single = (folder / "config.yaml").is_file()
    within = (path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/config.yaml"))
    found = [folder] if single else files.numbered(within)
    if not found:
        raise InputError(str(folder), "no run is there, nor a sweep (no config.yaml)")
    yield from found


def config(folder: Path) -> dict[str, object]:
    """Returns the config that a run's folder holds."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
    except (YAMLError, ValueError) as fault:
        raise InputError(str(folder / "config.yaml"), f"cannot be read: {fault}") from fault
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def write(runs: list[Run], others: list[str], out: Path) -> None:
    """Prints the report and writes it into the folder ``out``."""
    from kdrun.report import comparison
    from kdrun.report.display import console
    from kdrun.report.lines import gather
    from kdrun.report.losses import drawn

    lines, shown = gather(runs), console()
    tables = comparison.grids(lines)
    notes = [comparison.NOTES, *comparison.doubts(lines), *comparison.departures(lines)]
    for table in tables:
        shown.print(table.rich())
    for note in notes:
        shown.print(note, markup=False, soft_wrap=True)
    for other in others:
        shown.print(f"not in the tables: {other}", markup=False, soft_wrap=True)
    pictures = drawn(lines)
    for name, picture in pictures.items():
        files.write(out / name, picture)
    files.write(out / "report.md", comparison.markdown(tables, notes, list(pictures), runs, others).encode())
    files.write(out / "report.csv", comparison.table(lines).encode())
    shown.print(f"report       {out / 'report.md'}", markup=False, soft_wrap=True)
