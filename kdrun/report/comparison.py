"""The report of several runs: measured beside claimed, with spread, difference to the student alone, and cost."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from statistics import mean
from typing import Any

from rich.console import JustifyMethod
from rich.table import Table

from kdrun.report.cost import short
from kdrun.report.labels import labels
from kdrun.report.leaderboard import spread
from kdrun.report.lines import BASE, UNTAUGHT, Line, Run, main_score
from kdrun.train.metrics import Score, called

NOTES = """\
mean ± standard deviation over n seeds; difference: to the same student trained alone from the same initial weights, in
percentage points (pp) where scores are in percent; claimed: what the source says of its own setting, the gain in
brackets; FLOPs: of one image, two per multiply-add; seconds: of training, a chain's other links included, the teacher
not; asked: images shown to frozen models."""


@dataclass(frozen=True)
class Grid:
    """A table: its title, its headings, rows of as many cells, and whether only labels are folded on a terminal."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    whole: bool = False

    def markdown(self) -> str:
        """Returns it as markdown."""
        lines = [self.headings, ["---", *("---:" for _ in self.headings[1:])], *self.rows]
        return "\n".join([f"## {self.title}\n", *(f"| {' | '.join(cells)} |" for cells in lines)])

    def rich(self) -> Table:
        """Returns it as printed."""
        table = Table(title=self.title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for place, heading in enumerate(self.headings):
            side: JustifyMethod = "right" if place else "left"
            table.add_column(heading, justify=side, no_wrap=self.whole and place > 0, overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        return table


NEUTRAL = ("experiment", "method", "seed", "device", "precision", "compile", "threads", "out", "name", "baseline")
"""Keys that leave what a claim is of as it is; of methods the table says which."""


def grids(lines: list[Line]) -> list[Grid]:
    """Returns the tables of all data sets, each followed by its further scores and by what its methods measured."""
    found = []
    for section in dict.fromkeys(line.section for line in lines):
        here = [line for line in lines if line.section == section]
        named = dict(zip(labels(here), here, strict=True))
        found += [scores_grid(named, section[0]), further_grid(named, section[0])]
        if any(len(line.stages()) > 1 for line in here):
            found.append(stages_grid(named, section[0]))
        for how in dict.fromkeys(line.how for line in here):
            told = {label: line for label, line in named.items() if line.how == how and line.findings()}
            if told:
                found.append(findings_grid(told, f"{section[0]}, {how}: findings"))
    return found


def scores_grid(named: dict[str, Line], dataset: str) -> Grid:
    """Returns the main table of a data set from its lines by their labels."""
    main = main_score(next(iter(named.values())))
    headings = ["model", "n", main.name, "difference", "claimed", "params", "FLOPs", "seconds", "asked"]
    columns = zip(headings, *([label, *row(line, main)] for label, line in named.items()), strict=True)
    kept = [column for column in columns if any(column[1:])]
    return Grid(f"{dataset}: {main.name} on test images", *split(kept), whole=True)


def stages_grid(named: dict[str, Line], dataset: str) -> Grid:
    """Returns the seconds of each stage and of a chain's other links, of what has more than one."""
    rows = []
    for label, spent in ((label, line.stages()) for label, line in named.items()):
        if len(spent) > 1:
            rows.append([label, " + ".join(f"{name} {mean(seconds):.1f}" for name, seconds in spent.items())])
    return Grid(f"{dataset}: seconds of training", ["model", "by stage"], rows)


def further_grid(named: dict[str, Line], dataset: str) -> Grid:
    """Returns all scores but the main one, a column each; ``top1_teacher_wrong``: where the teacher errs."""
    main = main_score(next(iter(named.values()))).name
    tests = [one.row["test"] for line in named.values() for one in line.models]
    names = [name for name in dict.fromkeys(name for test in tests for name in test) if name != main]
    rows = [[label, *(cell(name, line.scores(name)) for name in names)] for label, line in named.items()]
    return Grid(f"{dataset}: further scores on test images", ["model", *names], rows)


def cell(name: str, values: list[float]) -> str:
    """Returns a measure over the seeds as printed; nothing where none has it."""
    return called(name).text(mean(values), spread(values)) if values else ""


def split(columns: list[tuple[str, ...]]) -> tuple[list[str], list[list[str]]]:
    """Returns the headings and the rows of ``columns``."""
    headings, *rows = (list(cells) for cells in zip(*columns, strict=True))
    return headings, rows


def row(line: Line, main: Score) -> list[str]:
    """Returns the cells of a line, its label apart."""
    values, apart, seconds, asked = (
        line.scores(main.name),
        line.differences(main.name),
        line.costs("seconds"),
        line.costs("asked"),
    )
    told, gain, doubtful = line.claimed(), claimed_difference(line), " !" if line.doubt() else ""
    gained = f" ({main.text(gain, sign=True)})" if gain is not None else ""
    paired = f" (n={len(apart)})" if len(apart) != len(values) else ""
    return [
        str(len(values)),
        main.text(mean(values), spread(values)),
        main.text(mean(apart), spread(apart), sign=True) + paired if apart else "",
        main.text(told) + gained + doubtful if told is not None else "",
        short(line.models[0].row["parameters"]),
        short(line.models[0].row["flops"]),
        f"{mean(seconds):.1f}" if seconds else "given",
        short(mean(asked)) if any(asked) else "",
    ]


def doubts(lines: list[Line]) -> list[str]:
    """Returns why claims in the tables are implausible, a line for each of their models."""
    found = {line.name: why for line in lines if (why := line.doubt())}
    return [f"! what is claimed of {name} is implausible: {why}" for name, why in found.items()]


def departures(lines: list[Line]) -> list[str]:
    """Returns a line with what runs that have claims beside them changed of their experiments; none where nothing."""
    runs = [one.run for line in lines if line.claimed() is not None for one in line.all]
    words = [word.lstrip("+") for run in runs for word in run.summary.get("overrides", ())]
    changed = dict.fromkeys(word for word in words if word.partition("=")[0] not in NEUTRAL)
    said = "claims are of what the source ran; runs beside them were changed by"
    return [f"{said} {' '.join(changed)}"] if changed else []


def claimed_difference(line: Line) -> float | None:
    """Returns how much the source claims that teaching gains."""
    taught, alone = line.claimed(), line.claimed(*BASE)
    return taught - alone if line.how not in UNTAUGHT and taught is not None and alone is not None else None


def findings_grid(named: dict[str, Line], title: str) -> Grid:
    """Returns a row for each finding, a column for each line, claims in brackets."""
    found = {label: line.findings() for label, line in named.items()}
    names = list(dict.fromkeys(name for findings in found.values() for name in findings))

    def beside(label: str, name: str) -> str:
        shown, claimed = cell(name, found[label].get(name, [])), named[label].claimed(name)
        return shown + (f" (claimed {called(name).text(claimed)})" if shown and claimed is not None else "")

    return Grid(title, ["finding", *found], [[name, *(beside(label, name) for label in found)] for name in names])


def markdown(tables: list[Grid], notes: list[str], pictures: list[str], runs: list[Run], others: list[str]) -> str:
    """Returns the report as markdown.

    Args:
        tables: of it.
        notes: on them.
        pictures: names of files beside it.
        runs: that it is about.
        others: what is to be said of folders that hold no finished run.
    """
    claims = {run.config["experiment"] or run.folder.name: run.config.get("claims") for run in runs}
    recorded = [f"- {name}: `{said}`" for name, said in claims.items() if said]
    parts = [f"# Report of {len(runs)} runs", *(table.markdown() for table in tables), *notes]
    parts += [f"![{picture}]({picture})" for picture in pictures]
    parts += [f"## Claims as recorded\n\n{chr(10).join(recorded)}"] if recorded else []
    parts += [f"## Not in the tables\n\n{chr(10).join(f'- {other}' for other in others)}"] if others else []
    return "\n\n".join(parts) + "\n"


def table(lines: list[Line]) -> str:
    """Returns all lines as csv: scores as they are, in [0, 1] where they are accuracies; empty where unknown."""
    rows = [values(label, line) for line, label in zip(lines, labels(lines), strict=True)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for each in rows for key in each)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def values(label: str, line: Line) -> dict[str, Any]:
    """Returns a line's row of the csv."""
    found: dict[str, Any] = {"dataset": line.section[0], "model": line.name, "trained": line.how, "line": label}
    found |= {"n": len(line.models), "seeds": " ".join(str(one.seed) for one in line.models)}
    for name in line.models[0].row["test"]:
        for key, each in ((name, line.scores(name)), (f"{name}_difference", line.differences(name))):
            found |= {f"{key}_mean": mean(each) if each else None, f"{key}_sd": spread(each)}
    costs = {name: line.costs(name) for name in ("seconds", "asked")}
    return {
        **found,
        "claimed": line.claimed(),
        "claimed_difference": claimed_difference(line),
        "implausible": line.doubt(),
        "parameters": line.models[0].row["parameters"],
        "flops": line.models[0].row["flops"],
        **{f"{name}_mean": mean(each) if each else None for name, each in costs.items()},
        "stages": " ".join(f"{name}:{mean(each):.3f}" for name, each in line.stages().items()),
    }
