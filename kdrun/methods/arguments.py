"""Types of the methods' arguments, each with its range."""

from __future__ import annotations

from typing import Annotated, Any

from kdrun.config.kinds import METHOD, MODEL

Weight = Annotated[float, "[0, inf)"]
Positive = Annotated[float, "(0, inf)"]
Temperature = Annotated[float, "[0.01, 1000]"]
"""Logits are divided by it: below 0.01 they leave the range in which a softmax of fp32 has a gradient."""
Epochs = Annotated[int, "[1, 100000]"]
Width = Annotated[int, "[1, 100000]"]
Tap = Annotated[int, "[0, inf)"]
"""Index of one of a model's taps, from 0."""
MethodNode = Annotated[dict[str, Any], METHOD]
"""Node of a method, which is built during the training."""
ModelNode = Annotated[dict[str, Any], MODEL]
"""Node of a model, which is built during the training."""
