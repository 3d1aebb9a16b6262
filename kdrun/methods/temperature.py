"""The effect of the temperature: the probabilities of one image, softened more and more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods import arguments
from kdrun.methods.base import Scores
from kdrun.methods.scratch import Scratch
from kdrun.report.temperature import softened

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Temperature(Scratch):
    """Trains the student from scratch, then plots softmax(z / T) of one test image's logits z for several T.

    Zeng, "Knowledge Distillation for Efficiency", section 4.1.1. The formula printed there, exp(z)/T over the sum of
    such terms, has a T that cancels out; softmax(z / T) is meant, and is plotted here. "The first sample in the test
    set" of MNIST is a 7, but the picture shows an 8: their data must have been shuffled.
    """

    temperatures: Sequence[arguments.Temperature] = (1, 5, 10, 15, 20, 40, 60)
    """Temperatures T; each is one line of the figure."""
    sample_label: Annotated[int, "[0, inf)"] = 8
    """Class of the image, which is the first one of this class in the test split."""
    sample_index: Annotated[int, "[0, inf)"] | None = None
    """Position of the image in the test split, from 0; if given, it replaces ``sample_label``."""

    def setup(self, exp: Experiment) -> None:
        if not self.temperatures:
            raise ConfigError("method.temperatures", "is empty; there is nothing to plot")
        classes = exp.data.source.classes
        if self.sample_index is None and self.sample_label >= classes:
            raise ConfigError("method.sample_label", f"{self.sample_label} is out of range: {classes} classes")
        if not exp.data.rehearsed:
            self.sample(exp)  # here: a missing image must be an error before the training, not after it

    def sample(self, exp: Experiment) -> int:
        """Returns the position of the image in the test split.

        Raises:
            ConfigError: if there is no such image.
        """
        if self.sample_index is not None:
            if self.sample_index >= exp.data.test.size:
                raise ConfigError("method.sample_index", f"there are only {exp.data.test.size} test images")
            return self.sample_index
        positions = (exp.data.test.targets == self.sample_label).nonzero()[:, 0].tolist()
        if not positions:
            raise ConfigError("method.sample_label", f"no test image is of class {self.sample_label}")
        return int(positions[0])

    def probabilities(self, exp: Experiment) -> Tensor:
        """Returns softmax(z / T) of the image's logits: (temperatures, classes)."""
        logits = exp.predict(exp.student, "test")[0][self.sample(exp)]
        scale = torch.tensor(list(self.temperatures), device=logits.device)
        return (logits / scale[:, None]).softmax(1)

    def metrics(self, exp: Experiment) -> Scores:
        """Returns the entropy in nats and the largest probability at each temperature."""
        scores: Scores = {}
        for temperature, row in zip(self.temperatures, self.probabilities(exp), strict=True):
            scores[f"entropy_T{temperature:g}"] = -(row * row.log()).nansum().item()
            scores[f"top_T{temperature:g}"] = row.max().item()
        return scores

    def figures(self, exp: Experiment) -> Iterator[tuple[str, Figure]]:
        source, position = exp.data.source, self.sample(exp)
        image = exp.data.test.images[position].float() / 255
        title = f"test image {position}, class {source.names[int(exp.data.test.targets[position])]}"
        yield "temperature", softened(self.probabilities(exp), list(self.temperatures), source.names, image, title)
