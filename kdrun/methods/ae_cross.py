"""Two translators, X to Y and Y to X, that teach each other: one's encoders match the other's decoders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.data.label_maps import label_map_scores
from kdrun.data.streams import pixels
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Positive, Tap, Weight
from kdrun.methods.base import Batch, Outputs, Scores, Stages, Step, Teacherless, Terms, Update
from kdrun.methods.reconstruction import Distance, distance_of
from kdrun.report.strips import recalls, strips
from kdrun.train.metrics import endpoint_error, measure, predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Bridge = Literal["maxpool", "conv"]

DIRECTIONS = {"x_to_y": ("X", "Y"), "y_to_x": ("Y", "X")}


class AECross(Teacherless):
    """Two copies of one auto-encoder, X to Y and Y to X, linked where their maps have nearly the same size.

    Report 3 (Chavhan), "Proposed experiment": with a = link_weight
        L = (1 - a) (|O1 - Y| + |O2 - X|) + a |enc1 of the first - dec4 of the second|.
    Both nets get gradients from every link; nothing is detached. The decoder's map is one row and one column larger. A
    2x2 max-pool of stride 1 removes the difference; in the report's experiment 3, a learned 2x2 convolution does.
    Departures: one optimizer trains both nets, which for the authors' RMSprop is the same as their two; batches are
    shuffled, theirs were not; label maps are scaled by the nearest pixel, theirs were interpolated; a tenth of the
    training pairs is the validation split and the best epoch by it is kept, while they trained on all pairs and kept
    the last epoch. The run's student, with its scores, is X to Y. The epoch that is best for X to Y is kept, which need
    not be the best for Y to X; without a link, the student is therefore the same as the net trained alone.
    """

    task: ClassVar = "translation"
    reads: ClassVar = frozenset({"logits", "features"})

    pairs: list[tuple[Tap, Tap]]
    """Linked taps (from 0), in pairs: an encoder of X to Y, and the decoder of Y to X that it must match."""
    bridge: Bridge = "maxpool"
    """Layer that brings the decoder's map to the encoder's size."""
    symmetric: bool = False
    """Whether the same links also connect the encoders of Y to X with the decoders of X to Y."""
    distance: Distance = "epe"
    """Distance of images and of maps, see ``reconstruction.distance_of``; the report writes |.|, its code uses
    ``epe``."""
    image_weight: Positive = 0.8
    """Weight of both reconstructions, 1 - a."""
    link_weight: Weight = 0.2
    """Weight of the sum of the links, a."""

    def setup(self, exp: Experiment) -> None:
        self.back = exp.peer("other")

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        ends = [pair for pair in self.pairs if self.link_weight] * (2 if self.symmetric else 1)
        self.bridges = nn.ModuleList(bridged(student, encoder, decoder, self.bridge) for encoder, decoder in ends)

    def stages(self, exp: Experiment) -> Stages:
        self.begin(exp)

        def loss(step: Step) -> Terms:
            return self.terms(step(exp.student), self.back(step.batch.targets), step.batch)

        def evaluate() -> Scores:
            there, back = (measure("translation", *self.translated(exp, name, "val")) for name in DIRECTIONS)
            return {**there, **{f"y_to_x/{name}": value for name, value in back.items()}}

        update = Update([*exp.student.parameters(), *self.parameters()], loss)
        yield exp.stage("distill", [update], {"student": exp.student, "method": self}, evaluate=evaluate)

    def terms(self, there: Outputs, back: Outputs, batch: Batch) -> Terms:
        """Returns the weighted terms of the outputs of both nets."""
        terms = {
            "x_to_y": self.image_weight * distance_of(there.logits, batch.targets, self.distance),
            "y_to_x": self.image_weight * distance_of(back.logits, batch.images, self.distance),
        }
        sides = [(there.features, back.features), (back.features, there.features)]
        ends = [(one[i], other[j]) for one, other in sides for i, j in self.pairs]
        distances = [
            distance_of(encoded, bridge(decoded), self.distance)
            for bridge, (encoded, decoded) in zip(self.bridges, ends, strict=False)  # fewer bridges: not symmetric
        ]
        return terms | ({"link": self.link_weight * torch.stack(distances).sum()} if distances else {})

    def translated(self, exp: Experiment, direction: str, split: str) -> tuple[Tensor, Tensor]:
        """Returns the outputs of the net of a ``direction`` on a split, and the targets: pixels in [0, 1]."""
        source = exp.data.source
        if direction == "x_to_y":
            pair = exp.predict(exp.student, split)
        else:
            turned = (replace(batch, images=batch.targets, targets=batch.images) for batch in exp.batches(split))
            pair = predict(self.back.eval(), turned)
        outputs, targets = (pixels(images, source.mean, source.std) for images in pair)
        return outputs, targets

    def metrics(self, exp: Experiment) -> Scores:
        """Returns PSNR, L1 and end-point error in both directions, and how well the label maps' colours match.

        ``mean_image_l1`` is the L1 of a model that returns the mean of the training images for every input.
        """
        metrics: Scores = {}
        for name in DIRECTIONS:
            outputs, targets = self.translated(exp, name, "test")
            scores = {**measure("translation", outputs, targets), "epe": endpoint_error(outputs, targets).item()}
            scores["mean_image_l1"] = (self.mean_image(exp, name) - targets).abs().mean().item()
            if name == self.painting(exp):
                scores |= label_map_scores(outputs, targets, exp.data.source.palette, exp.data.source.names)
            metrics |= {f"{name}/{score}": value for score, value in scores.items()}
        return metrics

    def mean_image(self, exp: Experiment, direction: str) -> Tensor:
        """Returns the mean target of a ``direction`` over the training images: (1, C, H, W) in [0, 1]."""
        images, targets = exp.data.train
        return (targets if direction == "x_to_y" else images).float().mean(0, keepdim=True) / 255

    def painting(self, exp: Experiment) -> str | None:
        """Returns the direction that makes label maps; None if the data set has none."""
        source = exp.data.source
        if not source.palette:
            return None
        return "y_to_x" if source.from_labels else "x_to_y"

    def figures(self, exp: Experiment) -> Iterator[tuple[str, Figure]]:
        """Yields strips "prediction, X, Y" of the first test images for each direction, and the colours' recall."""
        source = exp.data.source
        images = {name: self.translated(exp, name, "test") for name in DIRECTIONS}
        truth = [images["y_to_x"][1], images["x_to_y"][1]]
        for name, (start, end) in DIRECTIONS.items():
            title = f"{start} to {end}: first test images"
            yield f"strips {start} to {end}", strips([images[name][0], *truth], ["prediction", "X", "Y"], title)
        if painting := self.painting(exp):
            scores = label_map_scores(*images[painting], source.palette, source.names)
            yield "recall by colour", recalls(scores, dict(zip(source.names, source.palette, strict=True)))


def bridged(shapes: list[torch.Size], encoder: int, decoder: int, form: Bridge) -> nn.Module:
    """Returns a layer that brings the map of tap ``decoder`` to the shape of the map of tap ``encoder``.

    Args:
        shapes: (1, ...) of the tapped features, the same in both nets.
        encoder: index of the tap to be matched.
        decoder: index of the tap with the larger map.
        form: a max-pool of stride 1, or a convolution without padding.

    Raises:
        ConfigError: if there is no such tap, or ``form`` cannot bring the two maps to one shape.
    """
    if max(encoder, decoder) >= len(shapes):
        raise ConfigError("method.pairs", f"[{encoder}, {decoder}]: the student has taps 0 to {len(shapes) - 1}")
    small, large = shapes[encoder][1:], shapes[decoder][1:]
    kernel = (large[1] - small[1] + 1, large[2] - small[2] + 1)
    if min(kernel) < 1 or (form == "maxpool" and small[0] != large[0]):
        what = f"{form} does not make {'x'.join(map(str, small))} of {'x'.join(map(str, large))}"
        raise ConfigError("method.pairs", f"[{encoder}, {decoder}]: {what}; link maps of nearly the same size")
    if form == "maxpool":
        return nn.MaxPool2d(kernel, stride=1)
    return nn.Conv2d(large[0], small[0], kernel)
