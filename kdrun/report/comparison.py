"""The report of several runs: measured and claimed scores, their spread, the difference to the baseline, and costs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import Any

from rich.console import JustifyMethod
from rich.table import Table

from kdrun.report.cost import short
from kdrun.report.labels import labels
from kdrun.report.leaderboard import spread
from kdrun.report.lines import BASE, UNTAUGHT, Line, Run, main_score
from kdrun.report.markup import csv_text, markdown, plain
from kdrun.train.metrics import Score, called

NOTES = """\
mean ± standard deviation over n seeds; difference: to the same student trained alone from the same initial weights, in
percentage points (pp) where scores are in percent; claimed: the score in the source, with its own settings, and in
brackets the claimed difference; FLOPs: of one image, two per multiply-add; seconds: of training, including the other
models of a chain, but not the teacher; teacher images: images that frozen models were run on."""


@dataclass(frozen=True)
class Grid:
    """A table: its title, headings and rows. With ``whole``, only the first column is folded on a narrow terminal."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    whole: bool = False

    def markdown(self) -> str:
        """Returns the table as markdown."""
        head, *rows = ([markdown(cell) for cell in cells] for cells in (self.headings, *self.rows))
        lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
        return "\n".join([f"## {markdown(self.title)}\n", *(f"| {' | '.join(cells)} |" for cells in lines)])

    def rich(self) -> Table:
        """Returns the table for printing on a terminal."""
        table = Table(title=plain(self.title, "bold"), title_justify="left", box=None, pad_edge=False)
        for place, heading in enumerate(self.headings):
            side: JustifyMethod = "right" if place else "left"
            table.add_column(plain(heading), justify=side, no_wrap=self.whole and place > 0, overflow="fold")
        for row in self.rows:
            table.add_row(*map(plain, row))
        return table


NEUTRAL = (
    "experiment", "method", "seed", "device", "precision", "compile", "threads", "out", "name", "baseline", "figures",
)  # fmt: skip
"""Keys that do not change what a claim is about; ``method`` is among them because the table shows the method."""


def grids(lines: list[Line]) -> list[Grid]:
    """Returns the tables of all data sets: main scores, further scores, stages and metrics of the method."""
    tables = []
    for section in dict.fromkeys(line.section for line in lines):
        here = [line for line in lines if line.section == section]
        named = dict(zip(labels(here), here, strict=True))
        tables += [scores_grid(named, section[0]), further_grid(named, section[0])]
        if any(len(line.stages()) > 1 for line in here):
            tables.append(stages_grid(named, section[0]))
        for how in dict.fromkeys(line.how for line in here):
            measuring = {label: line for label, line in named.items() if line.how == how and line.method_metrics()}
            if measuring:
                tables.append(metrics_grid(measuring, f"{section[0]}, {how}: metrics of the method"))
    return tables


def scores_grid(named: dict[str, Line], dataset: str) -> Grid:
    """Returns the main table of a data set; ``named`` holds its lines by label."""
    main = main_score(next(iter(named.values())))
    headings = ["model", "n", main.name, "difference", "claimed", "params", "FLOPs", "seconds", "teacher images"]
    columns = zip(headings, *([label, *row(line, main)] for label, line in named.items()), strict=True)
    kept = [column for column in columns if any(column[1:])]
    return Grid(f"{dataset}: {main.name} on test images", *split(kept), whole=True)


def stages_grid(named: dict[str, Line], dataset: str) -> Grid:
    """Returns the seconds of each stage and of the other models of a chain, for lines with more than one of them."""
    rows = []
    for label, spent in ((label, line.stages()) for label, line in named.items()):
        if len(spent) > 1:
            rows.append([label, " + ".join(f"{name} {mean(seconds):.1f}" for name, seconds in spent.items())])
    return Grid(f"{dataset}: seconds of training", ["model", "by stage"], rows)


def further_grid(named: dict[str, Line], dataset: str) -> Grid:
    """Returns the table of all scores except the main one, one column for each."""
    main = main_score(next(iter(named.values()))).name
    tests = [one.row["test"] for line in named.values() for one in line.models]
    names = [name for name in dict.fromkeys(name for test in tests for name in test) if name != main]
    rows = [[label, *(cell(name, line.scores(name)) for name in names)] for label, line in named.items()]
    return Grid(f"{dataset}: further scores on test images", ["model", *names], rows)


def cell(name: str, values: list[float]) -> str:
    """Returns the mean and spread of a score over the seeds as printed; empty if there are no ``values``."""
    return called(name).text(mean(values), spread(values)) if values else ""


def split(columns: list[tuple[str, ...]]) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and the rows of ``columns``."""
    headings, *rows = (list(cells) for cells in zip(*columns, strict=True))
    return headings, rows


def row(line: Line, main: Score) -> list[str]:
    """Returns the cells of a line without its label."""
    values, differences, seconds, images = (
        line.scores(main.name),
        line.differences(main.name),
        line.costs("train_seconds"),
        line.costs("teacher_images"),
    )
    claimed, gain, doubtful = line.claimed(), claimed_difference(line), " !" if line.doubt() else ""
    gained = f" ({main.text(gain, sign=True)})" if gain is not None else ""
    paired = f" (n={len(differences)})" if len(differences) != len(values) else ""
    return [
        str(len(values)),
        main.text(mean(values), spread(values)),
        main.text(mean(differences), spread(differences), sign=True) + paired if differences else "",
        main.text(claimed) + gained + doubtful if claimed is not None else "",
        short(line.models[0].row["parameters"]),
        short(line.models[0].row["flops"]),
        f"{mean(seconds):.1f}" if seconds else "external",
        short(mean(images)) if any(images) else "",
    ]


def doubts(lines: list[Line]) -> list[str]:
    """Returns why claims in the tables are implausible, one line for each model."""
    reasons = {line.name: why for line in lines if (why := line.doubt())}
    return [f"! what is claimed of {name} is implausible: {why}" for name, why in reasons.items()]


def departures(lines: list[Line]) -> list[str]:
    """Returns one line with the overrides of runs that are compared with claims; an empty list if there are none."""
    runs = [one.run for line in lines if line.claimed() is not None for one in line.all]
    words = [word.lstrip("+") for run in runs for word in run.summary.get("overrides", ())]
    changed = dict.fromkeys(word for word in words if word.partition("=")[0] not in NEUTRAL)
    what = "claims are for the source's settings; the compared runs differ in"
    return [f"{what} {' '.join(changed)}"] if changed else []


def claimed_difference(line: Line) -> float | None:
    """Returns the difference to the baseline that the source claims; None if it does not claim both scores."""
    taught, baseline = line.claimed(), line.claimed(*BASE)
    return taught - baseline if line.how not in UNTAUGHT and taught is not None and baseline is not None else None


def metrics_grid(named: dict[str, Line], title: str) -> Grid:
    """Returns the table of a method's metrics: one row per metric, one column per line, claims in brackets."""
    tables = {label: line.method_metrics() for label, line in named.items()}
    names = list(dict.fromkeys(name for metrics in tables.values() for name in metrics))

    def both(label: str, name: str) -> str:
        measured, claimed = cell(name, tables[label].get(name, [])), named[label].claimed(name)
        return measured + (f" (claimed {called(name).text(claimed)})" if measured and claimed is not None else "")

    return Grid(title, ["metric", *tables], [[name, *(both(label, name) for label in tables)] for name in names])


def page(tables: list[Grid], notes: list[str], pictures: list[str], runs: list[Run], others: list[str]) -> str:
    """Returns the report as markdown.

    Args:
        tables: the tables.
        notes: the notes below the tables, after ``NOTES``.
        pictures: the file names of figures, in the folder of the report.
        runs: the runs that are compared.
        others: one line for each folder without a finished run.
    """
    claims = {run.config["experiment"] or run.folder.name: run.config.get("claims") for run in runs}
    recorded = [f"- {markdown(f'{name}: {text}')}" for name, text in claims.items() if text]
    parts = [f"# Report of {len(runs)} runs", *(table.markdown() for table in tables), NOTES, *map(markdown, notes)]
    parts += [f"![{picture}]({picture})" for picture in pictures]
    parts += [f"## Claims as recorded\n\n{chr(10).join(recorded)}"] if recorded else []
    parts += [f"## Not in the tables\n\n{chr(10).join(f'- {markdown(other)}' for other in others)}"] if others else []
    return "\n\n".join(parts) + "\n"


def report_csv(lines: list[Line]) -> str:
    """Returns all lines as csv; accuracies are in [0, 1], unknown values are empty."""
    rows = [values(label, line) for line, label in zip(lines, labels(lines), strict=True)]
    return csv_text(rows)


def values(label: str, line: Line) -> dict[str, Any]:
    """Returns the csv row of a line."""
    row: dict[str, Any] = {"dataset": line.section[0], "model": line.name, "trained": line.how, "line": label}
    row |= {"n": len(line.models), "seeds": " ".join(str(one.seed) for one in line.models)}
    for name in line.models[0].row["test"]:
        for key, each in ((name, line.scores(name)), (f"{name}_difference", line.differences(name))):
            row |= {f"{key}_mean": mean(each) if each else None, f"{key}_sd": spread(each)}
    costs = {name: line.costs(name) for name in ("train_seconds", "teacher_images")}
    return {
        **row,
        "claimed": line.claimed(),
        "claimed_difference": claimed_difference(line),
        "implausible": line.doubt(),
        "parameters": line.models[0].row["parameters"],
        "flops": line.models[0].row["flops"],
        **{f"{name}_mean": mean(each) if each else None for name, each in costs.items()},
        "stages": " ".join(f"{name}:{mean(each):.3f}" for name, each in line.stages().items()),
    }
