"""The curves of a run: how teacher, student alone and student came to what they are."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kdrun.scores import Score

Rows = list[dict[str, Any]]


def curves(rows: dict[str, Rows], main: Score, title: str) -> Figure:
    """Returns the training loss and the validation score of several models over their epochs.

    Only epochs in which the main score was taken are drawn: those of stages that train the model for its task. A loss
    is the sum of its epoch's terms, those of other players among them; methods differ in them, so it is not to be
    compared between the lines.

    Args:
        rows: of metrics.jsonl, by the label of the model.
        main: the task's first score.
        title: above both.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)  # TensorBoard draws on the figure's own canvas
    left, right = figure.subplots(1, 2)
    for label, found in rows.items():
        scored = [row for row in found if f"val/{main.name}" in row]
        if not scored:
            continue
        epochs = range(1, len(scored) + 1)
        style = {"label": label, "marker": "." if len(scored) < 40 else None}
        left.plot(epochs, [loss(row) for row in scored], **style)
        right.plot(epochs, [row[f"val/{main.name}"] * (100 if main.percent else 1) for row in scored], **style)
    figure.suptitle(title)
    left.set(xlabel="epoch", ylabel="training loss, sum of its terms")
    right.set(xlabel="epoch", ylabel=f"validation {main.name}{' in %' if main.percent else ''}")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.lines:
            axes.legend()
    return figure


def loss(row: dict[str, Any]) -> float:
    """Returns the sum of all terms of an epoch's row."""
    return sum((float(value) for name, value in row.items() if name.startswith("loss/")), 0.0)
