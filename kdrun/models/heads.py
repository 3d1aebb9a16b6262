"""Classifiers on the way: what a self-distilling net carries beside its own."""

from __future__ import annotations

from torch import Tensor, nn


class Head(nn.Module):
    """A shallow classifier: brings a tapped feature to the form of the deepest one, and classifies it.

    A self-distilling model maps images to the logits of its deepest classifier, as every model does. It does
    not run its heads, so they cost nothing at inference: ``training_only`` keeps them out of its weights on disk
    and of its parameter count. It has n taps, the last of which is the feature that the others are brought to,
    and n - 1 ``heads``; a method that trains them calls ``logits, feature = model.heads[i](features[i])``.

    Args:
        bottleneck: brings what is tapped to the shape of the deepest feature.
        features: numbers in one sample's deepest feature.
        classes: of the data.
    """

    training_only = True

    def __init__(self, bottleneck: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.fc = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits (N, classes), and the feature that they come from, in the shape of the deepest."""
        feature = self.bottleneck(x)
        return self.fc(feature.flatten(1)), feature
