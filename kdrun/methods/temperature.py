"""What temperature does: one image's probabilities, softened more and more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.base import Scores, Stages
from kdrun.methods.scratch import Scratch
from kdrun.report.temperature import softened

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Temperature(Scratch):
    """Trains the student from scratch, then draws softmax(z / T) of one test image's logits z for several T.

    Zeng, "Knowledge Distillation for Efficiency", section 4.1.1. The formula printed there, exp(z)/T over the sum of
    such terms, has a T that cancels; softmax(z / T) is meant and drawn. "The first sample in the test set" of MNIST is
    a 7, the picture shown an 8: their data must have been shuffled.

    Args:
        temperatures: T, one line of the figure each.
        sample_label: of the image: the first of this class in the test split.
        sample_index: the image's place in the test split, from 0, in place of a label.
        label_smoothing: of the training, as in ``Scratch``.
    """

    def __init__(
        self,
        temperatures: Sequence[Annotated[float, "(0, inf)"]] = (1, 5, 10, 15, 20, 40, 60),
        sample_label: Annotated[int, "[0, inf)"] = 8,
        sample_index: Annotated[int, "[0, inf)"] | None = None,
        label_smoothing: Annotated[float, "[0, 1)"] = 0.0,
    ) -> None:
        super().__init__(label_smoothing)
        self.temperatures, self.sample_label, self.sample_index = list(temperatures), sample_label, sample_index

    def stages(self, exp: Experiment) -> Stages:
        classes = exp.data.source.classes
        if self.sample_index is None and self.sample_label >= classes:
            raise ConfigError("method.sample_label", f"{self.sample_label} is out of range: {classes} classes")
        if not exp.data.rehearsed:
            self.sample(exp)  # here: what is missing must not be found missing after the training
        yield from super().stages(exp)

    def sample(self, exp: Experiment) -> int:
        """Returns the place of the image in the test split.

        Raises:
            ConfigError: if there is no such image.
        """
        if self.sample_index is not None:
            if self.sample_index >= exp.data.test.size:
                raise ConfigError("method.sample_index", f"there are only {exp.data.test.size} test images")
            return self.sample_index
        places = (exp.data.test.targets == self.sample_label).nonzero()[:, 0].tolist()
        if not places:
            raise ConfigError("method.sample_label", f"no test image is of class {self.sample_label}")
        return int(places[0])

    def probabilities(self, exp: Experiment) -> Tensor:
        """Returns softmax(z / T) of the image's logits: (temperatures, classes)."""
        logits = exp.predict(exp.student, "test")[0][self.sample(exp)]
        scale = torch.tensor(self.temperatures, device=logits.device)
        return (logits / scale[:, None]).softmax(1)

    def findings(self, exp: Experiment) -> Scores:
        """Returns the entropy in nats and the largest probability at each temperature."""
        found: Scores = {}
        for temperature, row in zip(self.temperatures, self.probabilities(exp), strict=True):
            found[f"entropy_T{temperature:g}"] = -(row * row.log()).nansum().item()
            found[f"top_T{temperature:g}"] = row.max().item()
        return found

    def figures(self, exp: Experiment) -> Iterator[tuple[str, Figure]]:
        source, place = exp.data.source, self.sample(exp)
        image = exp.data.test.images[place].float() / 255
        title = f"test image {place}, class {source.names[int(exp.data.test.targets[place])]}"
        yield "temperature", softened(self.probabilities(exp), self.temperatures, source.names, image, title)
