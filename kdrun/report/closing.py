"""The closing table of a run: the teacher, the baseline (the student alone) and the distilled student."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from kdrun.report.cost import short
from kdrun.report.markup import plain
from kdrun.train.metrics import TASKS

ROLES = {"teacher": "teacher", "baseline": "student alone", "student": "student"}


def closing(console: Console, summary: dict[str, Any], folder: Path) -> None:
    """Prints the table of ``summary``, the run folder and the command that shows the curves."""
    scores, models = TASKS[summary["task"]], summary["models"]
    title = f"{summary['dataset']}, seed {summary['seed']}: scores on {summary['test_images']:,} test images"
    table = Table(title=plain(title, "bold"), title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    for heading in ("", "model", *(score.name for score in scores), "difference", "params", "FLOPs", "seconds"):
        table.add_column(heading, justify="left" if heading in ("", "model") else "right", no_wrap=True)
    baseline = models.get("baseline")
    for role, row in models.items():
        main = scores[0]
        compared = baseline and role != "baseline"
        gain = row["test"][main.name] - baseline["test"][main.name] if compared else None
        cells = [score.text(row["test"][score.name]) for score in scores]
        label = f"{ROLES[role]}, {summary['method']}" if role == "student" else ROLES[role]
        difference = main.text(gain, sign=True) if gain is not None else ""
        seconds = f"{row['train_seconds']:.1f}" if row["train_seconds"] is not None else "external"
        cost = (short(row["parameters"]), short(row["flops"]), seconds)
        table.add_row(plain(label), plain(row["name"]), *cells, difference, *cost)
    console.print(table)
    console.print(notes(summary), markup=False, soft_wrap=True)
    console.print(f"run folder   {folder}", markup=False, soft_wrap=True)
    console.print(f"curves       tensorboard --logdir {shlex.quote(str(folder.parent))}", markup=False, soft_wrap=True)


def closing_line(console: Console, summary: dict[str, Any], folder: Path) -> None:
    """Prints the scores of a job of a sweep in one line."""
    main, models = TASKS[summary["task"]][0], summary["models"]
    scores = [f"{ROLES[role]} {main.text(row['test'][main.name])}" for role, row in models.items()]
    console.print(f"{folder.name}: {main.name} {', '.join(scores)}", markup=False, soft_wrap=True)


def notes(summary: dict[str, Any]) -> str:
    """Returns the explanation of the columns of the table."""
    against = "difference: to the student alone, from the same initial weights; one seed says little, try -m seed=0,1,2"
    cost = "FLOPs: of one image, two per multiply-add; seconds: of training, also of models from the store"
    return f"{against}\n{cost}" if "baseline" in summary["models"] else cost
