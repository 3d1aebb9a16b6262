"""The empty figure on which everything is plotted, without a screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def canvas(width: float, height: float) -> Figure:
    """Returns an empty figure of ``width`` x ``height`` inches."""
    from matplotlib.figure import Figure  # here: training must not wait for its import

    return Figure(figsize=(width, height), layout="constrained")
