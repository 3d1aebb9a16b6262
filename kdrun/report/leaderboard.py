"""The table of a sweep: every setting with mean and standard deviation over its seeds."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.markup import escape
from rich.table import Table

from kdrun.report.cost import short
from kdrun.report.display import console
from kdrun.store import files
from kdrun.train.metrics import TASKS, Score

Summary = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One setting of a sweep, over its seeds.

    Args:
        setting: the overrides in which it differs from the sweep's other settings.
        done: summaries of the runs that ended.
        failed: how many did not.
    """

    setting: str
    done: list[Summary]
    failed: int

    @property
    def section(self) -> tuple[str, str] | None:
        """The data set and the task, with whose lines alone it can be compared; None where no run ended."""
        return (self.done[0]["dataset"], self.done[0]["task"]) if self.done else None

    def values(self, score: Score, role: str = "student") -> list[float]:
        """Returns the test score of each run's model of a role; fewer where a run has no such model."""
        models = [run["models"][role] for run in self.done if role in run["models"]]
        return [model["test"][score.name] for model in models]

    def differences(self, score: Score) -> list[float]:
        """Returns how much each run's student is above the same student trained alone."""
        pairs = [(run["models"]["student"], run["models"].get("alone")) for run in self.done]
        return [student["test"][score.name] - alone["test"][score.name] for student, alone in pairs if alone]


def write(folder: Path) -> int:
    """Writes leaderboard.csv into the folder of a sweep and prints it; returns the number of jobs that failed.

    Reads what the jobs left behind, so that it is as right after a failure as after none.
    """
    runs = [read(job) for job in files.numbered(job for job in folder.iterdir() if job.is_dir())]
    lines = ranked(gather(runs))
    sections = list(dict.fromkeys((run["dataset"], run["task"]) for run in runs if run["status"] == "done"))
    if sections:
        files.write(folder / "leaderboard.csv", table(lines).encode())
        out = console()
        for section in sections:
            here = [line for line in lines if line.section in (section, None)]
            out.print(shown(here, section[0], TASKS[section[1]][0]))
        out.print(f"sweep folder {folder}", markup=False, soft_wrap=True)
    return sum(run["status"] != "done" for run in runs)


def read(job: Path) -> Summary:
    """Returns the summary of a job; of one that left none, what it was to be, and that it failed."""
    about, summary = job / "run.json", job / "summary.json"
    if summary.is_file():
        found: Summary = files.read_json(summary)
        return found
    overrides = files.read_json(about)["overrides"] if about.is_file() else []
    return {"status": "failed", "error": "left no summary", "overrides": overrides}


def gather(runs: list[Summary]) -> list[Line]:
    """Returns a line per setting, in the order of the jobs; a setting is all overrides but the seed."""
    told = [set(run["overrides"]) for run in runs if run["overrides"]]
    everywhere = set.intersection(*told) if told else set()
    settings: dict[str, list[Summary]] = {}
    for run in runs:
        own = [word for word in run["overrides"] if word not in everywhere and not word.startswith("seed=")]
        settings.setdefault(", ".join(own) or run.get("method") or "?", []).append(run)
    return [
        Line(setting, [run for run in group if run["status"] == "done"], sum(run["status"] != "done" for run in group))
        for setting, group in settings.items()
    ]


def ranked(lines: list[Line]) -> list[Line]:
    """Returns ``lines`` with the best mean of the main score first, those without any run last."""

    def place(line: Line) -> float:
        if not line.done:
            return float("inf")
        main = TASKS[line.done[0]["task"]][0]
        return -mean(line.values(main)) if main.more_is_better else mean(line.values(main))

    return sorted(lines, key=place)


def spread(values: list[float]) -> float | None:
    """Returns the sample standard deviation; None of fewer than two."""
    return stdev(values) if len(values) > 1 else None


def table(lines: list[Line]) -> str:
    """Returns the leaderboard as csv: scores as they are, in [0, 1] where they are accuracies; empty where unknown."""
    rows = []
    for line in lines:
        row: dict[str, Any] = {"setting": line.setting, "n": len(line.done), "failed": line.failed}
        for score in TASKS[line.section[1]] if line.section else ():
            for name, values in (
                (score.name, line.values(score)),
                (f"{score.name}_difference", line.differences(score)),
                (f"{score.name}_alone", line.values(score, "alone")),
                (f"{score.name}_teacher", line.values(score, "teacher")),
            ):
                row[f"{name}_mean"] = mean(values) if values else ""
                row[f"{name}_sd"] = "" if (sd := spread(values)) is None else sd
        students = [run["models"]["student"] for run in line.done]
        row["parameters"] = students[0]["parameters"] if students else ""
        row["flops"] = students[0]["flops"] if students else ""
        row["seconds_mean"] = mean(student["seconds"] for student in students) if students else ""
        rows.append(row)
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(names), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def shown(lines: list[Line], dataset: str, main: Score) -> Table:
    """Returns the leaderboard of a data set as printed."""
    title = f"{dataset}: {main.name} on test images, mean ± standard deviation over n seeds"
    grid = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1))
    grid.add_column("setting", overflow="fold")
    for heading in ("n", main.name, "difference to alone", "teacher", "params", "seconds"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        values, apart, teacher = line.values(main), line.differences(main), line.values(main, "teacher")
        failed = f" ({line.failed} not finished)" if line.failed else ""
        if not values:
            grid.add_row(escape(line.setting) + failed, "0")
            continue
        student = line.done[0]["models"]["student"]
        grid.add_row(
            escape(line.setting) + failed,
            str(len(values)),
            main.text(mean(values), spread(values)),
            main.text(mean(apart), spread(apart), sign=True) if apart else "",
            main.text(mean(teacher)) if teacher else "",
            short(student["parameters"]),
            f"{mean(run['models']['student']['seconds'] for run in line.done):.1f}",
        )
    return grid
