"""Distillation without data: images are optimized for targets that follow the teacher's class similarities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.data.streams import pixels
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Epochs, Positive, Temperature, Weight
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stage, Stages, Step, Terms, Update
from kdrun.methods.impressions import (
    Impressions,
    ImpressionStream,
    IndexStream,
    Noise,
    Within,
    concentrations,
    dirichlet,
    initial_noise,
)  # fmt: skip
from kdrun.methods.kd import KD
from kdrun.report import impressions as pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLOTTED = 8
"""Number of impressions of each class in the figure."""


class ZSKD(Method):
    """Data impressions, one stage per class, then distillation on them alone.

    Nayak et al. 2019, arXiv:1905.08114, section 3: the rows of the teacher's last layer show how similar two classes
    are; targets are drawn from Dirichlet distributions of these similarities; noise is optimized until the teacher,
    softened by T, gives each image its target; the student is distilled on the images. No real image is read in any of
    these stages. Validation images are scored but select nothing: the last epoch is kept. Departures: pixels are
    clamped to the range of real pixels, and Adam's rate is 0.1; both make better students. The default is without the
    authors' augmentation, which shows the method by itself.
    """

    reads: ClassVar = frozenset({"logits", "classifier"})

    impressions: Literal["synthesized", "noise"] = "synthesized"
    """Images of the distillation: ``synthesized``, or ``noise`` for the control, whose images are the initial noise."""
    noise: Noise = "uniform"
    """Initial noise: ``uniform`` pixels, as in the authors' code, or ``normal`` pixels around the data's mean, which
    teach more as a control."""
    count: Annotated[int, "[2, inf)"] = 4000
    """Number of impressions of all classes together; each class has equally many."""
    scales: list[Positive] = field(default_factory=lambda: [1.0, 0.1])
    """Factors beta of the concentrations, each for an equal part of a class's impressions. With a small factor nearly
    all probability falls on one class, which is often a different class."""
    within: Within = "row"
    """Part of the similarity matrix that is scaled to [0, 1], see ``concentrations``; the paper's text uses the row."""
    reject: bool = False
    """Whether targets are drawn again until their class is the most likely in them, which at the default scales is not
    so for half of them."""
    impression_epochs: Epochs = 300
    """Steps of Adam for each image."""
    impression_batch: Annotated[int, "[1, inf)"] = 200
    """Images per step of Adam."""
    lr: Positive = 0.1
    """Learning rate of Adam for the images; no schedule changes it."""
    constraint: Literal["clamp", "none"] = "clamp"
    """Constraint on images after each step: ``clamp`` keeps pixels in [0, 1]; ``none`` allows any value."""
    augment: bool = False
    """Whether the student sees transformed impressions, see ``moved``, with the teacher's logits for them."""
    student_loss: Literal["kl", "bce"] = "kl"
    """Loss of the soft targets: ``kl``, T^2 KL(teacher || student), both softened; ``bce``, binary cross-entropies of
    the student's probabilities, not softened, with the teacher's, softened, as in
    github.com/da2so/Zero-shot_Knowledge_Distillation_Pytorch."""
    ce_weight: Weight = 0.0
    """Weight of the cross-entropy with the teacher's most likely class, in distillation."""
    kd_weight: Weight = 1.0
    """Weight of the soft targets, in distillation."""
    temperature: Temperature = 20.0
    """Temperature T of synthesis and of distillation."""

    def __post_init__(self) -> None:
        if not self.scales:
            raise ValueError("scales is empty; give one at least, such as [1.0,0.1]")
        kd_weight = 0.0 if self.student_loss == "bce" else self.kd_weight
        self.kd = KD(self.ce_weight, kd_weight, self.temperature, hard_targets="teacher")

    def setup(self, exp: Experiment) -> None:
        if self.count < exp.data.source.classes:
            raise ConfigError("method.count", f"{self.count} is less than one for each of the classes; use more")
        self.similarity = similarity(exp.classifier(exp.teacher, "teacher").weight)

    def stages(self, exp: Experiment) -> Stages:
        self.begin(exp)
        self.sets: list[Impressions] = []
        for label in range(exp.data.source.classes):
            self.sets.append(self.initial(exp, label))
            if self.impressions == "synthesized":
                yield self.synthesis(exp, label)
            self.sets[label].requires_grad_(False)
        images = torch.cat([impressions.images() for impressions in self.sets])
        stream = ImpressionStream(images, exp.recipe.batch_size, exp.plan.seed, self.augment)
        yield self.distill(exp, stream=stream, select=None, until=lambda scores: False)

    def initial(self, exp: Experiment, label: int) -> Impressions:
        """Returns the initial impressions of class ``label``: noise, and the targets drawn for it."""
        source, count = exp.data.source, self.count // exp.data.source.classes
        shape = (count, source.channels, source.size, source.size)
        images = torch.as_tensor(initial_noise(self.noise, shape, source.mean, source.std), device=exp.runtime.device)
        scales = torch.tensor(self.scales, dtype=torch.float64)[torch.arange(count) % len(self.scales)]
        concentration = concentrations(self.similarity.cpu(), self.within)[label]
        targets = dirichlet(concentration, scales, label if self.reject else None)
        impressions = Impressions(images, targets, self.impression_batch, source.mean, source.std)
        if self.constraint == "clamp":
            impressions.clamp()
        return impressions

    def synthesis(self, exp: Experiment, label: int) -> Stage:
        """Returns the stage that optimizes the noise of class ``label`` until the teacher gives it its targets."""
        impressions = self.sets[label]

        def loss(step: Step) -> Terms:
            images, targets = impressions(step.batch.index)
            log_teacher = F.log_softmax(exp.teacher(images).logits / self.temperature, 1)
            return {"ce": -(targets * log_teacher).sum(1).mean()}

        adam = partial(torch.optim.Adam, lr=self.lr)
        after_step = impressions.clamp if self.constraint == "clamp" else None
        update = Update(
            impressions.parameters(), loss, adam, after_step=after_step, scheduled=False, player="impressions"
        )
        stream, epochs = IndexStream(impressions.batches), self.impression_epochs
        return exp.stage(f"impressions{label}", [update], {"impressions": impressions}, stream=stream, epochs=epochs)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        terms = self.kd.loss(student, teacher, batch)
        if self.student_loss == "bce":
            soft = F.softmax(teacher.logits / self.temperature, 1)
            terms["kd"] = self.kd_weight * binary_cross_entropy(student.logits, soft)
        return terms

    @torch.no_grad()
    def metrics(self, exp: Experiment) -> Scores:
        """Returns how well the impressions fit class and targets, and how often the student agrees with the teacher."""
        own_class, agreement, divergence = [], [], []
        for label, impressions in enumerate(self.sets):
            targets = torch.split(impressions.targets, self.impression_batch)
            for images, soft in zip(impressions.batches, targets, strict=True):
                teacher, student = exp.teacher(images).logits, exp.student.eval()(images).logits
                own_class.append(teacher.argmax(1) == label)
                agreement.append(teacher.argmax(1) == student.argmax(1))
                log_teacher = F.log_softmax(teacher / self.temperature, 1)
                divergence.append(F.kl_div(log_teacher, soft, reduction="none").sum(1))
        parts = {"impressions_of_their_class": own_class, "agreement_on_impressions": agreement}
        parts["impressions_kl"] = divergence
        return {name: torch.cat(part).float().mean().item() for name, part in parts.items()}

    def figures(self, exp: Experiment) -> Iterator[tuple[str, Figure]]:
        source, name = exp.data.source, exp.teacher.name
        yield "similarity", pictures.similarity(self.similarity.cpu(), source.names, f"{name}: class similarity")
        first = [pixels(each.images()[:PLOTTED], source.mean, source.std).cpu() for each in self.sets]
        yield "impressions", pictures.grid(first, source.names, f"{name}: {self.impressions} impressions")


def binary_cross_entropy(logits: Tensor, soft: Tensor) -> Tensor:
    """Returns the mean over samples and classes of -p log q - (1 - p) log (1 - q), p = ``soft``, q = softmax(logits).

    It uses the logarithm of the sum over the other classes, since log (1 - q) is not finite where q is rounded to 1.
    """
    itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    others = logits[:, None].masked_fill(itself, -torch.inf).logsumexp(2)
    whole = logits.logsumexp(1, keepdim=True)
    return -(soft * (logits - whole) + (1 - soft) * (others - whole)).mean()


def similarity(weight: Tensor) -> Tensor:
    """Returns the cosines (classes, classes) between the rows of ``weight`` (classes, features)."""
    rows = F.normalize(weight.detach().double(), dim=1)
    return rows @ rows.T
