"""``kdrun report``: compares runs in tables of measured and claimed scores, with their loss curves."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from pathlib import Path
from typing import TYPE_CHECKING

from kdrun.cli.flags import Parser
from kdrun.errors import ConfigError, InputError
from kdrun.store import files

if TYPE_CHECKING:
    from kdrun.report.lines import Run


def main(argv: list[str]) -> int:
    """Prints the tables of the runs that ``argv`` names and writes report.md, report.csv and figures of the losses.

    Raises:
        ConfigError: if no folder is named.
        InputError: if there is no finished run that can be read in any of the folders.
        WriteError: if the report cannot be written.
    """
    parser = Parser(
        prog="kdrun report",
        description="Compare runs: measured and claimed scores, differences, costs, loss curves.",
        epilog="examples:\n  kdrun report outputs/SWEEP\n  kdrun report outputs/A outputs/B --out outputs/report",
        formatter_class=RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUNS", help="folders of runs or of sweeps")
    parser.add_argument("--out", type=Path, help="where to write; the folder itself where one is given, else report/")
    parser.add_argument("-h", "--help", action="store_true", help="print this")
    args = parser.parse_args(argv)
    if args.help:
        print(parser.format_help(), end="")
        return 0
    if not args.runs:
        raise ConfigError("command line", "name the folder of a run or of a sweep: kdrun report outputs/NAME")
    runs, others = finished_runs(args.runs)
    write_report(runs, others, args.out or (args.runs[0] if len(args.runs) == 1 else Path("report")))
    return 0


def finished_runs(folders: list[Path]) -> tuple[list[Run], list[str]]:
    """Returns the finished runs in ``folders``, and one line about each folder that cannot be compared.

    Raises:
        InputError: if there is no finished run.
    """
    from kdrun.report.lines import Run  # here, because it imports torch
    from kdrun.report.reading import Walk, entry

    walk, entries = Walk(), []
    for place in folders:
        within = walk.runs(place)
        entries += [entry(folder) for folder in within] or [f"{place}: holds no run and no sweep (no config.yaml)"]
    runs = [one for one in entries if isinstance(one, Run)]
    others = [*(one for one in entries if isinstance(one, str)), *walk.others]
    if not runs and len(folders) == len(others) == 1 and others[0].startswith(f"{folders[0]}: holds"):
        raise InputError(str(folders[0]), "holds no run and no sweep (no config.yaml)")
    if not runs:
        more = f"; {len(others) - 1} more folders cannot be compared either" if others[1:] else ""
        first = others[0]
        if first.startswith(f"{folders[0]}: holds"):
            first = first.removeprefix(f"{folders[0]}: ")  # the name stands in front already
        raise InputError(str(folders[0]), f"holds no finished run ({first}{more})")
    return runs, others


def write_report(runs: list[Run], others: list[str], out: Path) -> None:
    """Prints the report and writes it into the folder ``out``."""
    from kdrun.report import comparison
    from kdrun.report.display import console
    from kdrun.report.lines import gather
    from kdrun.report.losses import plotted
    from kdrun.report.markup import plain

    lines, screen = gather(runs), console()
    tables = comparison.grids(lines)
    notes = [*comparison.doubts(lines), *comparison.departures(lines)]
    pictures, missing = plotted(lines)
    for table in tables:
        screen.print(table.rich())
    screen.print(comparison.NOTES, markup=False, soft_wrap=True)
    for note in [*notes, *missing, *(f"not in the tables: {other}" for other in others)]:
        screen.print(plain(note), soft_wrap=True)
    for name, picture in pictures.items():
        files.folder((out / name).parent)
        files.write(out / name, picture)
    files.folder(out)
    page = comparison.page(tables, [*notes, *missing], list(pictures), runs, others)
    files.write(out / "report.md", page.encode())
    files.write(out / "report.csv", comparison.report_csv(lines).encode())
    screen.print(plain(f"report       {out / 'report.md'}"), soft_wrap=True)
