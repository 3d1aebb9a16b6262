"""Factor transfer: a paraphraser condenses the teacher's map, a translator must say the same of the student's."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Epochs, Positive, Weight
from kdrun.methods.base import Stage, Stages, Step, Update
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, last_maps, same_size
from kdrun.train.taps import freeze

SLOPE = 0.1
"""Slope of the leaky ReLUs below 0."""


class FT(FeatureMethod):
    """A stage for the paraphraser, then ft_weight times the distance of the factors beside the labels.

    Kim, Park, Kwak 2018, arXiv:1802.04977, equations 1 to 4. The paraphraser is an auto-encoder of the teacher's last
    map, trained without labels by the squared error and then frozen; its code, of ``rate`` times the channels, is the
    teacher's factor. The translator, of the encoder's shape with batch normalization, makes the student's, and is then
    discarded. ``form=factors`` is the paper's: the mean absolute difference of the factors, each divided by its L2
    norm. ``form=attention`` is what the CRD benchmark runs: the factors' means over channels of squares, each divided
    by its L2 norm, take their place. Of two factors of unequal size the larger is average-pooled.
    """

    ft_weight: Weight = 200.0
    """Weight of the factors' distance."""
    form: Literal["factors", "attention"] = "factors"
    """What of the factors is compared."""
    rate: Annotated[float, "(0, 1]"] = 0.5
    """Channels of a factor, as a part of the teacher's."""
    init_epochs: Epochs = 30
    """Epochs of the paraphraser."""
    paraphraser_weight: Positive = 1.0
    """Weight of the paraphraser's squared error."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.student_tap, self.teacher_tap = last_maps(student, teacher)
        own, theirs = student[self.student_tap][1], teacher[self.teacher_tap][1]
        factor = int(theirs * self.rate)
        if factor < 1:
            raise ConfigError("method.rate", f"{self.rate} of {theirs} channels are none; take more")
        self.paraphraser, self.translator = Paraphraser(theirs, factor), encoder(own, factor, normalized=True)

    def stages(self, exp: Experiment) -> Stages:
        self.begin(exp)
        yield self.paraphraser_stage(exp)
        freeze(self.paraphraser)
        yield self.distill(exp)

    def paraphraser_stage(self, exp: Experiment) -> Stage:
        """Returns the stage that trains the paraphraser on the teacher's maps."""

        def loss(step: Step) -> Terms:
            maps = step(exp.teacher).features[self.teacher_tap]
            return {"error": self.paraphraser_weight * F.mse_loss(self.paraphraser(maps), maps)}

        update = Update(self.paraphraser.parameters(), loss, player="paraphraser")
        return exp.stage("paraphraser", [update], {"paraphraser": self.paraphraser}, epochs=self.init_epochs)

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        own = self.translator(student.features[self.student_tap])
        theirs = self.paraphraser.encoder(teacher.features[self.teacher_tap])
        return {"ft": self.ft_weight * distance(*same_size(own, theirs), self.form)}


class Paraphraser(nn.Module):
    """An auto-encoder of maps (N, C, H, W) whose code has ``factor`` channels and the same size."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.encoder = encoder(channels, factor, normalized=False)
        widths = [(factor, factor), (factor, channels), (channels, channels)]
        layers = ((nn.ConvTranspose2d(*pair, 3, padding=1), nn.LeakyReLU(SLOPE)) for pair in widths)
        self.decoder = nn.Sequential(*(each for layer in layers for each in layer))

    def forward(self, maps: Tensor) -> Tensor:
        rebuilt: Tensor = self.decoder(self.encoder(maps))
        return rebuilt


def encoder(channels: int, factor: int, normalized: bool) -> nn.Sequential:
    """Returns three 3x3 convolutions with leaky ReLUs, from ``channels`` to ``factor`` channels."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((channels, channels), (channels, factor), (factor, factor)):
        norm = [nn.BatchNorm2d(outputs)] if normalized else []
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers)


def distance(student: Tensor, teacher: Tensor, form: str = "factors") -> Tensor:
    """Returns the mean absolute difference of two factors (N, C, H, W), or of their attention maps, of norm 1."""
    if form == "attention":
        student, teacher = student.square().mean(1), teacher.square().mean(1)
    return F.l1_loss(F.normalize(student.flatten(1)), F.normalize(teacher.flatten(1)))
