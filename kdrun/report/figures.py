"""Figures of a run, drawn without a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kdrun.report.canvas import canvas
from kdrun.report.markup import caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion(counts: Tensor, names: list[str], title: str) -> Figure:
    """Returns the figure of a confusion matrix; each row is divided by its sum.

    Args:
        counts: (classes, classes) integers; rows are true classes, columns predicted ones.
        names: the names of the classes.
        title: the title of the figure.
    """
    figure = canvas(6, 5.2)
    axes = figure.subplots()
    shares = (counts / counts.sum(1, keepdim=True).clamp(min=1)).cpu().numpy()
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set(title=caption(title), xlabel="predicted class", ylabel="true class")
    labels = list(map(caption, names))
    if len(names) <= 20:
        axes.set_xticks(range(len(names)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), labels)
    if len(names) <= 12:
        for row, column in ((i, j) for i in range(len(names)) for j in range(len(names)) if counts[i, j]):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(int(counts[row, column])), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, label="part of the true class")
    return figure
