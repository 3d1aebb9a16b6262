"""Types of the methods' arguments, each with its range."""

from __future__ import annotations

from typing import Annotated

Weight = Annotated[float, "[0, inf)"]
Positive = Annotated[float, "(0, inf)"]
Temperature = Annotated[float, "(0, 1000]"]
Epochs = Annotated[int, "[1, 100000]"]
Width = Annotated[int, "[1, 100000]"]
Tap = Annotated[int, "[0, inf)"]
"""Index of one of a model's taps, from 0."""
