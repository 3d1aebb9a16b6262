"""The loss curves of several trainings, one panel for each line of a report."""

from __future__ import annotations

import io
from textwrap import fill
from typing import TYPE_CHECKING, Any

from kdrun.errors import InputError
from kdrun.report.canvas import canvas
from kdrun.report.curves import loss, terms
from kdrun.report.labels import labels
from kdrun.report.lines import Line, Measured
from kdrun.report.markup import caption, file_part
from kdrun.report.reading import metrics_rows
from kdrun.train.metrics import TASKS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]

COLUMNS = 4

PANELS = 100
"""The most panels of a figure: a larger one takes minutes, and has more pixels than can be drawn."""

WIDTH = 44
"""The most characters in a line of a panel's title."""

AXES_FACTOR = 3.0
"""The two losses share an axis if their ratio after the first epoch is at most this."""


def plotted(lines: list[Line]) -> tuple[dict[str, bytes], list[str]]:
    """Returns a figure of the losses for each data set, and what they leave out.

    Returns:
        The figures as PNG bytes by file name, and one line for each file that cannot be read or was left out.
    """
    pictures, missing = {}, []
    for number, section in enumerate(dict.fromkeys(line.section for line in lines)):
        here = [line for line in lines if line.section == section]
        if len(here) > PANELS:
            missing.append(f"not in the figure of {section[0]}: the last {len(here) - PANELS} of {len(here)} lines")
        known = zip(labels(here)[:PANELS], here, strict=False)
        panels = {label: [rows for one in line.models if (rows := readable(one, missing))] for label, line in known}
        if panels := {label: rows for label, rows in panels.items() if rows}:
            measure = next(score.name for score in TASKS[section[1]] if not score.more_is_better)
            buffer = io.BytesIO()
            losses(panels, measure).savefig(buffer, format="png", dpi=120)
            name = f"losses-{file_part(section[0])}.png"
            pictures[f"{number}-{name}" if name in pictures else name] = buffer.getvalue()
    return pictures, missing


def readable(model: Measured, missing: list[str]) -> Rows:
    """Returns the rows of a model's metrics.jsonl; if it cannot be read, none, and ``missing`` gets a line."""
    try:
        return metrics_rows(model.metrics)
    except InputError as fault:
        missing.append(f"not in the figure: {fault}")
        return []


def losses(panels: dict[str, list[Rows]], measure: str) -> Figure:
    """Returns a figure with a panel for each label: training loss and validation loss, with a curve for each seed.

    Only the last stage is drawn. The training loss is the sum of a method's terms, so it cannot be compared between
    methods; the validation loss can.

    Args:
        panels: the rows of metrics.jsonl of each seed, by label.
        measure: the name of the validation score to draw: loss or l1.
    """
    columns = min(COLUMNS, len(panels))
    count = -(-len(panels) // columns)
    figure = canvas(3.6 * columns, 2.7 * count + 0.4)
    grid = figure.subplots(count, columns, squeeze=False)
    for axes, (label, seeds) in zip(grid.flat, panels.items(), strict=False):
        panel(axes, [[row for row in rows if row["stage"] == rows[-1]["stage"]] for rows in seeds], measure)
        title = [label, f"training: {' + '.join(terms(seeds[0][-1]))}"]
        axes.set_title("\n".join(fill(caption(line), WIDTH) for line in title), fontsize=7)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(f"losses: training (sum of terms) and validation ({measure})", fontsize=10)
    return figure


def panel(axes: Any, seeds: list[Rows], measure: str) -> None:
    """Draws the losses of one line; on two y-axes if their sizes differ by more than ``AXES_FACTOR``."""
    trained = [[(row["epoch"], loss(row)) for row in rows] for rows in seeds]
    held = [[(row["epoch"], row[key]) for row in rows if (key := f"val/{measure}") in row] for rows in seeds]
    sizes = [max(abs(points[0][1]) for points in each if points) for each in (trained, held) if any(each)]
    beside = axes.twinx() if max(sizes) > AXES_FACTOR * min(sizes) else axes
    handles = [*traces(axes, trained, "training", "tab:blue"), *traces(beside, held, "validation", "tab:orange")]
    # on the upper axes, or curves would be drawn across it; at a set place, as the best one is slow to search for
    beside.legend(handles=handles, fontsize=7, loc="upper right")
    axes.set(xlabel="epoch", ylabel="loss" if beside is axes else "training loss")
    if beside is not axes:
        beside.set_ylabel("validation loss")
    axes.grid(alpha=0.3)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def traces(axes: Any, seeds: list[list[tuple[int, float]]], label: str, colour: str) -> list[Any]:
    """Draws a curve for each seed that has points; returns the first one, for the legend."""
    plotted = []
    for points in filter(None, seeds):
        marker = "." if len(points) < 5 else None
        plotted += axes.plot(*zip(*points, strict=True), color=colour, label=label, linewidth=1, marker=marker)
    return plotted[:1]
