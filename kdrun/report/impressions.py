"""Figures of a teacher's data impressions, and of the class similarities that they are made from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdrun.report.canvas import canvas
from kdrun.report.markup import caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 20
"""The most classes in the grid of impressions."""

GAP = 2
"""White pixels between two impressions."""


def similarity(cosines: Tensor, names: list[str], title: str) -> Figure:
    """Returns a heat map of the ``cosines`` (classes, classes) in [-1, 1] between classes called ``names``."""
    figure = canvas(6, 5.2)
    axes = figure.subplots()
    image = axes.imshow(cosines.numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    axes.set(title=caption(title), xlabel="class", ylabel="class")
    labels = list(map(caption, names))
    if len(names) <= 20:
        axes.set_xticks(range(len(names)), labels, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), labels)
    if len(names) <= 12:
        for row, values in enumerate(cosines.tolist()):
            for column, value in enumerate(values):
                colour = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
    figure.colorbar(image, ax=axes, label="cosine of last-layer weights")
    return figure


def grid(images: list[Tensor], names: list[str], title: str) -> Figure:
    """Returns a figure with a row of images for each class, at most ``ROWS`` rows.

    Args:
        images: for each class (n, C, H, W) of pixels in [0, 1], with C 1 or 3.
        names: the names of the classes.
        title: the title of the figure.
    """
    images, columns = images[:ROWS], max(len(row) for row in images)
    _, channels, height, width = images[0].shape
    sheet = torch.ones(len(images) * (height + GAP), columns * (width + GAP), channels)
    for y, row in enumerate(images):
        for x, image in enumerate(row):
            top, left = y * (height + GAP), x * (width + GAP)
            sheet[top : top + height, left : left + width] = image.permute(1, 2, 0)
    figure = canvas(0.8 * columns + 1.8, 0.8 * len(images) + 0.8)
    axes = figure.subplots()
    axes.imshow(sheet.numpy().squeeze(2) if channels == 1 else sheet.numpy(), vmin=0, vmax=1, cmap="gray")
    labels = [caption(name) for name in names[: len(images)]]
    axes.set_yticks([(y + 0.5) * (height + GAP) - GAP / 2 for y in range(len(images))], labels)
    axes.set(title=caption(title), ylabel="class", xticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
