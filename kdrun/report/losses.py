"""The loss curves of several trainings, in panels."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdrun.record import read_rows
from kdrun.report.curves import loss
from kdrun.report.labels import labels
from kdrun.report.lines import Line
from kdrun.scores import TASKS

Rows = list[dict[str, Any]]

COLUMNS = 4


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
    figure = Figure(figsize=(3.4 * columns, 2.7 * count + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(count, columns, squeeze=False)
    for axes, (label, seeds) in zip(grid.flat, panels.items(), strict=False):
        for place, rows in enumerate(seeds):
            stage = [row for row in rows if row["stage"] == rows[-1]["stage"]]
            epochs = [row["epoch"] for row in stage]
            names = ("training", "validation") if place == 0 else (None, None)
            axes.plot(epochs, [loss(row) for row in stage], color="tab:blue", label=names[0], linewidth=1)
            held = [row.get(f"val/{measure}") for row in stage]
            axes.plot(epochs, held, color="tab:orange", label=names[1], linewidth=1)
        terms = [name.removeprefix("loss/") for name in seeds[0][-1] if name.startswith("loss/")]
        axes.set_title(f"{label}\ntraining: {' + '.join(terms)}", fontsize=8)
        axes.set(xlabel="epoch", ylabel="loss")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=7)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(f"losses: training (sum of terms) and validation ({measure})", fontsize=10)
    return figure
