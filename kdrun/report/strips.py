"""Figures of translated images: strips of what was made beside what was wanted, and which colours were met."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from kdrun.train.stage import Scores

STRIPS = 4


def strips(columns: list[Tensor], headings: list[str], title: str) -> Figure:
    """Returns ``STRIPS`` rows of images side by side.

    Args:
        columns: (N, 3, H, W) in [0, 1] each, or (N, 1, H, W); of the same N.
        headings: one per column.
        title: above it.
    """
    rows = min(STRIPS, len(columns[0]))
    figure = Figure(figsize=(2 * len(columns), 2 * rows + 0.6), layout="constrained")
    FigureCanvasAgg(figure)  # TensorBoard draws on the figure's own canvas
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for place, (images, heading) in enumerate(zip(columns, headings, strict=True)):
        grid[0, place].set_title(heading)
        for row in range(rows):
            axes, image = grid[row, place], images[row].permute(1, 2, 0).cpu().numpy()
            axes.imshow(image, vmin=0, vmax=1, cmap="gray", interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
    figure.suptitle(title)
    return figure


def recalls(scores: Scores, colours: dict[str, tuple[int, int, int]]) -> Figure:
    """Returns a bar per class, in the colour that label maps have for it: the part of its pixels that got the colour.

    Args:
        scores: holds ``recall/NAME`` for the classes that occur.
        colours: red, green and blue in 0..255 by the class's name.
    """
    found = {name: scores[f"recall/{name}"] for name in colours if f"recall/{name}" in scores}
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shades = [tuple(part / 255 for part in colours[name]) for name in found]
    bars = axes.bar(range(len(found)), list(found.values()), color=shades, edgecolor="black", linewidth=0.6)
    axes.bar_label(bars, [f"{value:.2f}" for value in found.values()], fontsize=7)
    axes.set_xticks(range(len(found)), list(found), rotation=45, ha="right", fontsize=8)
    said = f"pixel accuracy {scores['pixel_accuracy']:.3f}, mean intersection over union {scores['miou']:.3f}"
    axes.set(ylim=(0, 1.08), ylabel="recall: pixels with the class's colour", title=f"label maps made: {said}")
    return figure
