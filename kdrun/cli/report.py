"""``kdrun report``: compares runs in tables of measured and claimed scores, with their loss curves."""

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
from kdrun.store.format import RECORD_FORMAT, check_format

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
    """Returns the finished runs in ``folders``, and one line about each other run.

    Raises:
        InputError: if there is no finished run.
    """
    entries = [entry(folder) for place in folders for folder in runs_in(place)]
    runs = [one for one in entries if not isinstance(one, str)]
    others = [one for one in entries if isinstance(one, str)]
    if not runs:
        raise InputError(str(folders[0]), f"holds no finished run ({others[0]})")
    return runs, others


def entry(folder: Path) -> Run | str:
    """Returns the finished run in ``folder``, or one line about why it cannot be compared."""
    from kdrun.report.lines import Run  # here, because it imports torch

    path = folder / "summary.json"
    summary = files.read_json(path) if path.is_file() else {"status": "not finished", "format": RECORD_FORMAT}
    try:
        check_format(folder, summary)
    except InputError as old:
        return str(old)
    run = Run(folder, recorded_config(folder), summary)
    if run.config.get("fast_dev_run"):
        return f"{folder}: a quick run (fast_dev_run=true), which measures nothing"
    if summary["status"] == "done":
        return run
    return f"{folder}: {summary['status']} {summary.get('error', '')}".rstrip()


def runs_in(folder: Path) -> Iterator[Path]:
    """Yields ``folder`` if it is the folder of a run, else the runs in it and in its sweeps.

    Raises:
        InputError: if there is none.
    """
    single = (folder / "config.yaml").is_file()
    within = (path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/config.yaml"))
    runs = [folder] if single else files.numbered(within)
    if not runs:
        raise InputError(str(folder), "holds no run and no sweep (no config.yaml)")
    yield from runs


def recorded_config(folder: Path) -> dict[str, object]:
    """Returns the config recorded in the folder of a run."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"), resolve=False)
    except (YAMLError, ValueError) as fault:
        raise InputError(str(folder / "config.yaml"), f"cannot be read: {fault}") from fault
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def write_report(runs: list[Run], others: list[str], out: Path) -> None:
    """Prints the report and writes it into the folder ``out``."""
    from kdrun.report import comparison
    from kdrun.report.display import console
    from kdrun.report.lines import gather
    from kdrun.report.losses import plotted

    lines, screen = gather(runs), console()
    tables = comparison.grids(lines)
    notes = [comparison.NOTES, *comparison.doubts(lines), *comparison.departures(lines)]
    for table in tables:
        screen.print(table.rich())
    for note in notes:
        screen.print(note, markup=False, soft_wrap=True)
    for other in others:
        screen.print(f"not in the tables: {other}", markup=False, soft_wrap=True)
    pictures = plotted(lines)
    for name, picture in pictures.items():
        files.write(out / name, picture)
    files.write(out / "report.md", comparison.markdown(tables, notes, list(pictures), runs, others).encode())
    files.write(out / "report.csv", comparison.report_csv(lines).encode())
    screen.print(f"report       {out / 'report.md'}", markup=False, soft_wrap=True)
