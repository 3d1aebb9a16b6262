"""The closing table of a run: the teacher, the student alone, the student distilled."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kdrun.report.cost import short
from kdrun.train.metrics import TASKS

ROLES = {"teacher": "teacher", "alone": "student alone", "student": "student"}


def closing(console: Console, summary: dict[str, Any], folder: Path) -> None:
    """Prints the table of ``summary`` and where to look further."""
    scores, models = TASKS[summary["task"]], summary["models"]
    title = f"{summary['dataset']}, seed {summary['seed']}: scores on {summary['test_images']:,} test images"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1))
    for heading in ("", "model", *(score.name for score in scores), "difference", "params", "FLOPs", "seconds"):
        table.add_column(heading, justify="left" if heading in ("", "model") else "right", no_wrap=True)
    alone = models.get("alone")
    for role, row in models.items():
        main = scores[0]
        apart = row["test"][main.name] - alone["test"][main.name] if alone and role != "alone" else None
        shown = [score.text(row["test"][score.name]) for score in scores]
        role_shown = f"{ROLES[role]}, {summary['method']}" if role == "student" else ROLES[role]
        difference = main.text(apart, sign=True) if apart is not None else ""
        seconds = f"{row['seconds']:.1f}" if row["seconds"] is not None else "given"
        cost = (short(row["parameters"]), short(row["flops"]), seconds)
        table.add_row(role_shown, row["name"], *shown, difference, *cost)
    console.print(table)
    console.print(notes(summary), markup=False, soft_wrap=True)
    console.print(f"run folder   {folder}", markup=False, soft_wrap=True)
    console.print(f"curves       tensorboard --logdir {shlex.quote(str(folder.parent))}", markup=False, soft_wrap=True)


def closing_line(console: Console, summary: dict[str, Any], folder: Path) -> None:
    """Prints a job of a sweep in one line."""
    main, models = TASKS[summary["task"]][0], summary["models"]
    said = [f"{ROLES[role]} {main.text(row['test'][main.name])}" for role, row in models.items()]
    console.print(f"{folder.name}: {main.name} {', '.join(said)}", markup=False, soft_wrap=True)


def notes(summary: dict[str, Any]) -> str:
    """Returns what the table's figures mean."""
    apart = "difference: to the student alone, from the same initial weights; one seed says little, try -m seed=0,1,2"
    cost = "FLOPs: of one image, two per multiply-add; seconds: of training, a stored model's when it was trained"
    return f"{apart}\n{cost}" if "alone" in summary["models"] else cost
