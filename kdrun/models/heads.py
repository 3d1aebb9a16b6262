"""Early classifiers: the heads on the shallow layers of a self-distilling net."""

from __future__ import annotations

from torch import Tensor, nn


class Head(nn.Module):
    """A shallow classifier: maps a tapped feature to the shape of the deepest feature, and classifies it.

    A self-distilling model returns the logits of its deepest classifier, as every model does. It does not run its
    heads, so they cost nothing at inference; ``training_only`` leaves them out of the weights on disk and of the
    parameter count. The model has n taps, the last of which is the deepest feature, and n - 1 ``heads``. A method
    that trains them calls ``logits, feature = model.heads[i](features[i])``.

    Args:
        bottleneck: maps a tapped feature to the shape of the deepest feature.
        features: number of values in the deepest feature of one sample.
        classes: number of classes.
    """

    training_only = True

    def __init__(self, bottleneck: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.fc = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits (N, classes), and the feature that they come from, in the deepest feature's shape."""
        feature = self.bottleneck(x)
        return self.fc(feature.flatten(1)), feature
