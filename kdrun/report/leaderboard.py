"""The table of a sweep: each setting with mean and standard deviation over its seeds."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from kdrun.errors import InputError
from kdrun.report.cost import short
from kdrun.report.display import console
from kdrun.report.markup import csv_text, plain
from kdrun.report.reading import read_summary
from kdrun.store import files
from kdrun.train.metrics import TASKS, Score

Summary = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One setting of a sweep, over its seeds.

    Args:
        setting: the overrides in which it differs from the other settings of the sweep.
        done: the summaries of the finished runs.
        failed: the number of runs that did not finish.
    """

    setting: str
    done: list[Summary]
    failed: int

    @property
    def section(self) -> tuple[str, str] | None:
        """The data set and the task; only lines of the same section can be compared. None if no run has finished."""
        return (self.done[0]["dataset"], self.done[0]["task"]) if self.done else None

    def values(self, score: Score, role: str = "student") -> list[float]:
        """Returns the test score of the model with this role in each run; runs without such a model are left out."""
        models = [run["models"][role] for run in self.done if role in run["models"]]
        return [model["test"][score.name] for model in models]

    def differences(self, score: Score) -> list[float]:
        """Returns the difference of each run's student to its baseline."""
        pairs = [(run["models"]["student"], run["models"].get("baseline")) for run in self.done]
        return [student["test"][score.name] - baseline["test"][score.name] for student, baseline in pairs if baseline]


def write_leaderboard(folder: Path) -> int:
    """Writes leaderboard.csv into the folder of a sweep and prints it; returns the number of jobs that failed.

    It reads the summaries on disk, so it is also correct after a failed or stopped job.
    """
    runs = [job_summary(job) for job in files.numbered(job for job in folder.iterdir() if job.is_dir())]
    lines = ranked(by_setting(runs))
    sections = list(dict.fromkeys((run["dataset"], run["task"]) for run in runs if run["status"] == "done"))
    if sections:
        files.write(folder / "leaderboard.csv", leaderboard_csv(lines).encode())
        out = console()
        for section in sections:
            here = [line for line in lines if line.section in (section, None)]
            out.print(printed(here, section[0], TASKS[section[1]][0]))
        out.print(f"sweep folder {folder}", markup=False, soft_wrap=True)
    return sum(run["status"] != "done" for run in runs)


def job_summary(job: Path) -> Summary:
    """Returns the summary of a job; for a job without one, a summary that it failed, with its overrides."""
    try:
        if os.path.lexists(job / "summary.json"):
            return {"overrides": [], **read_summary(job, of_any_format=True)}
        error = "left no summary"
    except InputError as fault:
        error = str(fault)
    return {"status": "failed", "error": error, "overrides": recorded_words(job / "run.json")}


def recorded_words(about: Path) -> list[str]:
    """Returns the overrides in a run.json; an empty list if it cannot be read."""
    try:
        words = files.read_json(about)["overrides"] if about.is_file() else []
    except (InputError, LookupError, TypeError):
        return []
    return [str(word) for word in words] if isinstance(words, list) else []


def by_setting(runs: list[Summary]) -> list[Setting]:
    """Groups the runs by setting, in the order of the jobs; a setting is all overrides except the seed."""
    sets = [set(run["overrides"]) for run in runs if run["overrides"]]
    everywhere = set.intersection(*sets) if sets else set()
    settings: dict[str, list[Summary]] = {}
    for run in runs:
        own = [word for word in run["overrides"] if word not in everywhere and not word.startswith("seed=")]
        settings.setdefault(", ".join(own) or run.get("method") or "?", []).append(run)
    return [
        Setting(
            setting, [run for run in group if run["status"] == "done"], sum(run["status"] != "done" for run in group)
        )
        for setting, group in settings.items()
    ]


def ranked(lines: list[Setting]) -> list[Setting]:
    """Returns ``lines`` sorted by the mean of the main score, the best first; settings without a run come last."""

    def place(line: Setting) -> float:
        if not line.done:
            return float("inf")
        main = TASKS[line.done[0]["task"]][0]
        return -mean(line.values(main)) if main.more_is_better else mean(line.values(main))

    return sorted(lines, key=place)


def spread(values: list[float]) -> float | None:
    """Returns the sample standard deviation; None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def leaderboard_csv(lines: list[Setting]) -> str:
    """Returns the leaderboard as csv; accuracies are in [0, 1], unknown values are empty."""
    rows = []
    for line in lines:
        row: dict[str, Any] = {"setting": line.setting, "n": len(line.done), "failed": line.failed}
        for score in TASKS[line.section[1]] if line.section else ():
            for name, values in (
                (score.name, line.values(score)),
                (f"{score.name}_difference", line.differences(score)),
                (f"{score.name}_baseline", line.values(score, "baseline")),
                (f"{score.name}_teacher", line.values(score, "teacher")),
            ):
                row[f"{name}_mean"] = mean(values) if values else ""
                row[f"{name}_sd"] = "" if (sd := spread(values)) is None else sd
        students = [run["models"]["student"] for run in line.done]
        row["parameters"] = students[0]["parameters"] if students else ""
        row["flops"] = students[0]["flops"] if students else ""
        seconds = [student["train_seconds"] for student in students if student["train_seconds"] is not None]
        row["train_seconds_mean"] = mean(seconds) if seconds else ""
        rows.append(row)
    return csv_text(rows)


def printed(lines: list[Setting], dataset: str, main: Score) -> Table:
    """Returns the leaderboard of a data set for printing on a terminal."""
    title = f"{dataset}: {main.name} on test images, mean ± standard deviation over n seeds"
    grid = Table(title=plain(title, "bold"), title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    grid.add_column("setting", overflow="fold")
    for heading in ("n", main.name, "difference", "teacher", "params", "seconds"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        values, differences, teacher = line.values(main), line.differences(main), line.values(main, "teacher")
        label = plain(line.setting + (f" ({line.failed} not finished)" if line.failed else ""))
        if not values:
            grid.add_row(label, "0")
            continue
        students = [run["models"]["student"] for run in line.done]
        seconds = [student["train_seconds"] for student in students if student["train_seconds"] is not None]
        grid.add_row(
            label,
            str(len(values)),
            main.text(mean(values), spread(values)),
            main.text(mean(differences), spread(differences), sign=True) if differences else "",
            main.text(mean(teacher)) if teacher else "",
            short(students[0]["parameters"]),
            f"{mean(seconds):.1f}" if seconds else "",
        )
    return grid
