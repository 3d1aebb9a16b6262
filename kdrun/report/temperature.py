"""The figure of the temperature study: one image and its class probabilities at each temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kdrun.report.canvas import canvas
from kdrun.report.markup import caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def softened(probabilities: Tensor, temperatures: list[float], names: list[str], image: Tensor, title: str) -> Figure:
    """Returns a figure with an image and, for each temperature, a curve of its class probabilities.

    Args:
        probabilities: (temperatures, classes) in [0, 1].
        temperatures: the temperature of each row.
        names: the names of the classes.
        image: (C, H, W) in [0, 1].
        title: the title of the image.
    """
    from matplotlib import colormaps  # here, as in `canvas`

    figure = canvas(10, 4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 2.6))
    left.imshow(image.permute(1, 2, 0).cpu().numpy(), cmap="gray", vmin=0, vmax=1)
    left.set(title=caption(title), xticks=[], yticks=[])
    colours = colormaps["viridis"].resampled(len(temperatures) + 1)
    for place, (temperature, row) in enumerate(zip(temperatures, probabilities.cpu().numpy(), strict=True)):
        right.plot(row, marker="o", markersize=4, color=colours(place), label=f"T = {temperature:g}")
    right.set(title="softmax(logits / T)", xlabel="class", ylabel="probability", ylim=(0, 1.02))
    long = max(map(len, names)) > 3
    right.set_xticks(
        range(len(names)), list(map(caption, names)), rotation=45 if long else 0, ha="right" if long else "center"
    )
    right.grid(alpha=0.3)
    right.legend(loc="upper right")
    return figure
