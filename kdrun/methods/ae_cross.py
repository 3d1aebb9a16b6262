"""Two translators, there and back, that teach each other: one's encoders match the other's decoders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.data.label_maps import label_map_scores
from kdrun.data.streams import pixels
from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stages, Terms, Update
from kdrun.methods.reconstruction import Distance, distance
from kdrun.report.strips import recalls, strips
from kdrun.train.metrics import endpoint_error, measure, predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Bridge = Literal["maxpool", "conv"]
Tap = Annotated[int, "[0, inf)"]

DIRECTIONS = {"x_to_y": ("X", "Y"), "y_to_x": ("Y", "X")}


class AECross(Method):
    """Two copies of one auto-encoder, X to Y and Y to X, linked where their maps are nearly of one size.

    Report 3 (Chavhan), "Proposed experiment": with a = link_weight
        L = (1 - a) (|O1 - Y| + |O2 - X|) + a |enc1 of the first - dec4 of the second|.
    Both nets get gradients from every link, nothing is detached. The decoder's map is one row and column larger, which
    a 2x2 max-pool of stride 1 evens out, or a learned 2x2 convolution in the report's experiment 3. Departures: one
    optimizer moves both nets, which for the authors' RMSprop is what their two do; batches are shuffled, theirs were
    not; label maps are scaled by the nearest pixel, theirs were blended; a tenth of the training pairs validates and
    the best epoch by it is kept, theirs trained on all and kept the last. The run's student, with its scores, is X to
    Y: its best epoch is kept, in which Y to X need not be at its own, so that without a link it is the net alone.

    Args:
        links: pairs of taps (from 0): of an encoder of X to Y, and of the decoder of Y to X that it is to match.
        bridge: what brings the decoder's map to the encoder's size.
        symmetric: whether the same links lead from the encoders of Y to X to the decoders of X to Y too.
        distance: of images and of maps, see ``reconstruction.distance``; the report writes |.|, its code has ``epe``.
        image_weight: of both reconstructions, 1 - a.
        link_weight: of the sum of the links, a.
    """

    task = "translation"
    needs_teacher = False

    def __init__(
        self,
        links: list[tuple[Tap, Tap]],
        bridge: Bridge = "maxpool",
        symmetric: bool = False,
        distance: Distance = "epe",
        image_weight: Annotated[float, "(0, inf)"] = 0.8,
        link_weight: Annotated[float, "[0, inf)"] = 0.2,
    ) -> None:
        super().__init__()
        self.links, self.bridge, self.symmetric = links, bridge, symmetric
        self.distance: Distance = distance
        self.image_weight, self.link_weight = image_weight, link_weight
        self.bridges = nn.ModuleList()

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        ends = [link for link in self.links if self.link_weight] * (2 if self.symmetric else 1)
        self.bridges.extend(bridged(student, encoder, decoder, self.bridge) for encoder, decoder in ends)

    def stages(self, exp: Experiment) -> Stages:
        shapes = exp.shapes(exp.student)
        self.connect(shapes, shapes)
        self.other = exp.twin("other")

        def loss(batch: Batch, given: None) -> Terms:
            return self.loss(exp.student(batch.images), self.other(batch.targets), batch)

        def evaluate() -> Scores:
            there, back = (measure("translation", *self.shown(exp, name, "val")) for name in DIRECTIONS)
            return {**there, **{f"y_to_x/{name}": value for name, value in back.items()}}

        update = Update([*exp.student.parameters(), *self.parameters()], loss)
        yield exp.stage("distill", [update], {"student": exp.student, "method": self}, evaluate=evaluate)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        """Returns the weighted terms; ``teacher`` is what the net of the other direction says, with its gradients."""
        assert teacher is not None
        terms = {
            "x_to_y": self.image_weight * distance(student.logits, batch.targets, self.distance),
            "y_to_x": self.image_weight * distance(teacher.logits, batch.images, self.distance),
        }
        sides = [(student.features, teacher.features), (teacher.features, student.features)]
        ends = [(one[i], other[j]) for one, other in sides for i, j in self.links]
        linked = [
            distance(encoded, bridge(decoded), self.distance)
            for bridge, (encoded, decoded) in zip(self.bridges, ends, strict=False)  # fewer bridges: not symmetric
        ]
        return terms | ({"link": self.link_weight * torch.stack(linked).sum()} if linked else {})

    def shown(self, exp: Experiment, direction: str, split: str) -> tuple[Tensor, Tensor]:
        """Returns what the net of a ``direction`` makes of a split, and what was wanted: pixels in [0, 1]."""
        source = exp.data.source
        if direction == "x_to_y":
            pair = exp.predict(exp.student, split)
        else:
            turned = (replace(batch, images=batch.targets, targets=batch.images) for batch in exp.batches(split))
            pair = predict(self.other.eval(), turned)
        made, wanted = (pixels(images, source.mean, source.std) for images in pair)
        return made, wanted

    def findings(self, exp: Experiment) -> Scores:
        """Returns PSNR, L1 and end-point error in both directions, and how well the label maps' colours are met.

        ``mean_image_l1`` is what the mean of the training images would reach, whatever is given.
        """
        found: Scores = {}
        for name in DIRECTIONS:
            made, wanted = self.shown(exp, name, "test")
            scores = {**measure("translation", made, wanted), "epe": endpoint_error(made, wanted).item()}
            scores["mean_image_l1"] = (self.mean_image(exp, name) - wanted).abs().mean().item()
            if name == self.painting(exp):
                scores |= label_map_scores(made, wanted, exp.data.source.palette, exp.data.source.names)
            found |= {f"{name}/{score}": value for score, value in scores.items()}
        return found

    def mean_image(self, exp: Experiment, direction: str) -> Tensor:
        """Returns the mean of what is wanted in a ``direction``, over the training images: (1, C, H, W) in [0, 1]."""
        images, targets = exp.data.train
        return (targets if direction == "x_to_y" else images).float().mean(0, keepdim=True) / 255

    def painting(self, exp: Experiment) -> str | None:
        """Returns the direction that makes label maps; None where the data set has none."""
        source = exp.data.source
        if not source.palette:
            return None
        return "y_to_x" if source.labels_given else "x_to_y"

    def figures(self, exp: Experiment) -> Iterator[tuple[str, Figure]]:
        """Yields strips "prediction, X, Y" of the first test images for each direction, and the colours' recall."""
        source = exp.data.source
        shown = {name: self.shown(exp, name, "test") for name in DIRECTIONS}
        truth = [shown["y_to_x"][1], shown["x_to_y"][1]]
        for name, (given, wanted) in DIRECTIONS.items():
            title = f"{given} to {wanted}: first test images"
            yield f"strips {given} to {wanted}", strips([shown[name][0], *truth], ["prediction", "X", "Y"], title)
        if painting := self.painting(exp):
            scores = label_map_scores(*shown[painting], source.palette, source.names)
            yield "recall by colour", recalls(scores, dict(zip(source.names, source.palette, strict=True)))


def bridged(shapes: list[torch.Size], encoder: int, decoder: int, form: Bridge) -> nn.Module:
    """Returns what brings the map of tap ``decoder`` to the shape of that of tap ``encoder``.

    Args:
        shapes: (1, ...) of the tapped features, the same in both nets.
        encoder: which of them is to be matched.
        decoder: which of them is larger.
        form: a max-pool of stride 1, or a convolution without padding.

    Raises:
        ConfigError: if there is no such tap, or the two cannot be brought together so.
    """
    if max(encoder, decoder) >= len(shapes):
        raise ConfigError("method.links", f"[{encoder}, {decoder}]: the student has taps 0 to {len(shapes) - 1}")
    small, large = shapes[encoder][1:], shapes[decoder][1:]
    kernel = (large[1] - small[1] + 1, large[2] - small[2] + 1)
    if min(kernel) < 1 or (form == "maxpool" and small[0] != large[0]):
        what = f"{form} does not make {'x'.join(map(str, small))} of {'x'.join(map(str, large))}"
        raise ConfigError("method.links", f"[{encoder}, {decoder}]: {what}; link maps of nearly the same size")
    if form == "maxpool":
        return nn.MaxPool2d(kernel, stride=1)
    return nn.Conv2d(large[0], small[0], kernel)
