"""Figures of image translation: outputs beside their targets, and the recall of each class of a label map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kdrun.report.canvas import canvas
from kdrun.report.markup import caption
from kdrun.train.stage import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STRIPS = 4


def strips(columns: list[Tensor], headings: list[str], title: str) -> Figure:
    """Returns a figure with ``STRIPS`` rows of images side by side.

    Args:
        columns: for each column (N, 3, H, W) or (N, 1, H, W) in [0, 1]; all with the same N.
        headings: the heading of each column.
        title: the title of the figure.
    """
    rows = min(STRIPS, len(columns[0]))
    figure = canvas(2 * len(columns), 2 * rows + 0.6)
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for place, (images, heading) in enumerate(zip(columns, headings, strict=True)):
        grid[0, place].set_title(caption(heading))
        for row in range(rows):
            axes, image = grid[row, place], images[row].permute(1, 2, 0).cpu().numpy()
            axes.imshow(image, vmin=0, vmax=1, cmap="gray", interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
    figure.suptitle(caption(title))
    return figure


def recalls(scores: Scores, colours: dict[str, tuple[int, int, int]]) -> Figure:
    """Returns a bar chart of the recall of each class, in the colours of the label maps.

    Args:
        scores: the scores, with ``recall/NAME`` for the classes that occur.
        colours: red, green and blue in 0..255, by the name of the class.
    """
    present = {name: scores[f"recall/{name}"] for name in colours if f"recall/{name}" in scores}
    figure = canvas(7, 3.6)
    axes = figure.subplots()
    shades = [tuple(part / 255 for part in colours[name]) for name in present]
    bars = axes.bar(range(len(present)), list(present.values()), color=shades, edgecolor="black", linewidth=0.6)
    axes.bar_label(bars, [f"{value:.2f}" for value in present.values()], fontsize=7)
    axes.set_xticks(range(len(present)), list(map(caption, present)), rotation=45, ha="right", fontsize=8)
    text = f"pixel accuracy {scores['pixel_accuracy']:.3f}, mean intersection over union {scores['miou']:.3f}"
    axes.set(ylim=(0, 1.08), ylabel="recall: pixels with the class's colour", title=f"label maps made: {text}")
    return figure
