"""The loss curves of several trainings, in panels."""

from __future__ import annotations

import io
from textwrap import fill
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdrun.report.curves import loss, terms
from kdrun.report.labels import labels
from kdrun.report.lines import Line
from kdrun.store.record import read_rows
from kdrun.train.metrics import TASKS

Rows = list[dict[str, Any]]

COLUMNS = 4

WIDTH = 44
"""Letters of a panel's title in a line."""

APART = 3.0
"""Times that the two losses may differ after the first epoch and still share an axis."""


def drawn(lines: list[Line]) -> dict[str, bytes]:
    """Returns a figure of all losses for each data set, as PNG, by the name of its file."""
    found = {}
    for section in dict.fromkeys(line.section for line in lines):
        here = [line for line in lines if line.section == section]
        panels = {
            label: [rows for one in line.models if (rows := read_rows(one.metrics))]
            for label, line in zip(labels(here), here, strict=True)
        }
        measure = next(score.name for score in TASKS[section[1]] if not score.more_is_better)
        buffer = io.BytesIO()
        losses({label: rows for label, rows in panels.items() if rows}, measure).savefig(buffer, format="png", dpi=120)
        found[f"losses-{section[0]}.png"] = buffer.getvalue()
    return found


def losses(panels: dict[str, list[Rows]], measure: str) -> Figure:
    """Returns a panel for each label: the training loss and a loss on the validation split, a line for each seed.

    Of several stages the last is drawn. What is trained down is the sum of a method's terms, so that it is not of one
    size among methods, while the validation loss is.

    Args:
        panels: the rows of metrics.jsonl of each seed, by label.
        measure: the score on the validation split that is drawn: loss, l1.
    """
    columns = min(COLUMNS, len(panels))
    count = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.7 * count + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(count, columns, squeeze=False)
    for axes, (label, seeds) in zip(grid.flat, panels.items(), strict=False):
        panel(axes, [[row for row in rows if row["stage"] == rows[-1]["stage"]] for rows in seeds], measure)
        title = [fill(label, WIDTH), fill(f"training: {' + '.join(terms(seeds[0][-1]))}", WIDTH)]
        axes.set_title("\n".join(title), fontsize=7)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(f"losses: training (sum of terms) and validation ({measure})", fontsize=10)
    return figure


def panel(axes: Any, seeds: list[Rows], measure: str) -> None:
    """Draws the losses of one training, on two axes where they do not begin at one size."""
    trained = [[(row["epoch"], loss(row)) for row in rows] for rows in seeds]
    held = [[(row["epoch"], row[key]) for row in rows if (key := f"val/{measure}") in row] for rows in seeds]
    sizes = [max(abs(points[0][1]) for points in each if points) for each in (trained, held) if any(each)]
    beside = axes.twinx() if max(sizes) > APART * min(sizes) else axes
    handles = [*traces(axes, trained, "training", "tab:blue"), *traces(beside, held, "validation", "tab:orange")]
    beside.legend(handles=handles, fontsize=7)  # of the upper axes: lines of the lower ones would cross it
    axes.set(xlabel="epoch", ylabel="loss" if beside is axes else "training loss")
    if beside is not axes:
        beside.set_ylabel("validation loss")
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def traces(axes: Any, seeds: list[list[tuple[int, float]]], label: str, colour: str) -> list[Any]:
    """Draws a line for each seed that has points, and returns the first, which stands for all in the legend."""
    drawn = []
    for points in filter(None, seeds):
        marker = "." if len(points) < 5 else None
        drawn += axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1, marker=marker)
    return drawn[:1]
