"""The learning curves of a run: teacher, baseline and student."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any

from kdrun.report.canvas import canvas
from kdrun.report.markup import caption
from kdrun.train.metrics import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = list[dict[str, Any]]

STYLES = (("#0072B2", "-"), ("#E69F00", "--"), ("#000000", "-."))
"""Colours and line styles of the models.

The colours are those of Okabe and Ito, which colour-blind readers can distinguish; the styles are for print without
colour.
"""

PARTS = (("#56B4E9", ":"), ("#D55E00", ":"), ("#009E73", ":"), ("#CC79A7", ":"))
"""Colours and line styles of the other parts of a model: further classifiers, the reverse direction."""


def curves(rows: dict[str, Rows], main: Score, title: str, levels: dict[str, float] | None = None) -> Figure:
    """Returns the training loss and the validation score of several models over their epochs.

    Only epochs with the main score are drawn: those of stages that train the model for its task. The loss is the sum of
    the epoch's terms. Methods have different terms, so losses cannot be compared between lines.

    Args:
        rows: the rows of metrics.jsonl, by the label of the model.
        main: the task's first score.
        title: the title of the figure.
        levels: validation scores of models without known epochs, by label; each is drawn as a horizontal line.
    """
    figure = canvas(10, 4)
    left, right = figure.subplots(1, 2)
    scale = 100 if main.percent else 1
    for (label, own), (colour, stroke) in zip(rows.items(), cycle(STYLES), strict=False):
        scored = [row for row in own if f"val/{main.name}" in row]
        if not scored:
            continue
        epochs = range(1, len(scored) + 1)
        style = {
            "label": caption(label),
            "marker": "." if len(scored) < 40 else None,
            "color": colour,
            "linestyle": stroke,
        }
        left.plot(epochs, [loss(row) for row in scored], **style)
        right.plot(epochs, [row[f"val/{main.name}"] * scale for row in scored], **style)
        for name, (colour, stroke) in zip(others(scored[0], main), cycle(PARTS), strict=False):
            part = f"{label}, {name.removeprefix('val/').removesuffix('/' + main.name)}"
            style |= {"label": caption(part), "color": colour, "linestyle": stroke}
            right.plot(epochs, [row[name] * scale for row in scored], **style)
    for label, level in (levels or {}).items():
        right.axhline(level * scale, label=caption(label), color="gray", linewidth=1)
    figure.suptitle(caption(title))
    left.set(xlabel="epoch", ylabel="training loss, sum of its terms")
    right.set(xlabel="epoch", ylabel=f"validation {main.name}{' in %' if main.percent else ''}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if axes.lines:
            axes.legend(fontsize=8, loc="upper right" if axes is left else "lower right")  # "best" is slow
    return figure


def others(row: dict[str, Any], main: Score) -> list[str]:
    """Returns the names in a row that are main scores of other parts: further classifiers, the reverse direction."""
    return [name for name in row if name.startswith("val/") and name.endswith(f"/{main.name}") and name.count("/") > 1]


def loss(row: dict[str, Any]) -> float:
    """Returns the sum of the student's loss terms in an epoch's row; other players have their own losses."""
    return sum((float(row[f"loss/{name}"]) for name in terms(row)), 0.0)


def terms(row: dict[str, Any]) -> list[str]:
    """Returns the names of the student's loss terms in an epoch's row."""
    names = [name.removeprefix("loss/") for name in row if name.startswith("loss/")]
    return [name for name in names if "/" not in name]
