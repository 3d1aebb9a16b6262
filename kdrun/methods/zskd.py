"""Distillation without data: images are made that the teacher takes for what its last layer says is alike."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.data.streams import pixels
from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stage, Stages, Terms, Update
from kdrun.methods.impressions import Impressions, Places, Shown, concentrations, dirichlet, drawn
from kdrun.methods.kd import KD
from kdrun.report import impressions as pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 8
"""Impressions of a class in the figure."""


class ZSKD(Method):
    """Data impressions, one stage per class, then distillation on them alone.

    Nayak et al. 2019, arXiv:1905.08114, section 3: rows of the teacher's last layer say how alike two classes are;
    targets are drawn from Dirichlet distributions of these similarities; noise is moved until the teacher, softened by
    T, gives each image its target; the student is distilled on the images. No real image is read in any of these
    stages; those of validation are scored, and select nothing: the last epoch is kept. Departures: pixels are
    clamped to those that exist, and Adam's rate is 0.1; both make better students. Without augmentation, which the
    authors have, the method is seen as it is.

    Args:
        impressions: ``synthesized``, or ``noise`` for the control whose images are the noise that they begin as.
        noise: what they begin as: ``uniform`` pixels, as in the authors' code, or ``normal`` ones about the data's
            mean, which as a control teach more.
        count: of impressions of all classes, equally many each.
        scales: beta, by which concentrations are multiplied, each for an equal part of a class: where small, nearly
            all probability falls on one class, and that is often another one.
        within: what similarities are scaled within, see ``concentrations``; the paper's text has the row.
        reject: whether targets are drawn again until their class is the most likely in them, which at the default
            scales half of them are not.
        impression_epochs: steps of Adam for each image.
        impression_batch: images per such step.
        lr: of Adam, for images; no schedule moves it.
        constraint: of images after each step: ``clamp`` keeps pixels in [0, 1]; ``none`` lets them go anywhere.
        augment: whether the student sees impressions moved about, see ``moved``, with what the teacher says of them.
        student_loss: of the soft targets: ``kl``, T^2 KL(teacher || student), both softened; ``bce``, binary
            cross-entropies of the student's probabilities, not softened, with the teacher's, softened, as in
            github.com/da2so/Zero-shot_Knowledge_Distillation_Pytorch.
        ce_weight: of the teacher's most likely class, in distillation.
        kd_weight: of the soft targets, in distillation.
        temperature: T of both.
    """

    def __init__(
        self,
        impressions: Literal["synthesized", "noise"] = "synthesized",
        noise: Literal["normal", "uniform"] = "uniform",
        count: Annotated[int, "[2, inf)"] = 4000,
        scales: list[Annotated[float, "(0, inf)"]] | None = None,
        within: Literal["row", "column"] = "row",
        reject: bool = False,
        impression_epochs: Annotated[int, "[1, 100000]"] = 300,
        impression_batch: Annotated[int, "[1, inf)"] = 200,
        lr: Annotated[float, "(0, inf)"] = 0.1,
        constraint: Literal["clamp", "none"] = "clamp",
        augment: bool = False,
        student_loss: Literal["kl", "bce"] = "kl",
        ce_weight: Annotated[float, "[0, inf)"] = 0.0,
        kd_weight: Annotated[float, "[0, inf)"] = 1.0,
        temperature: Annotated[float, "(0, 1000]"] = 20.0,
    ) -> None:
        super().__init__()
        self.impressions, self.count, self.scales = impressions, count, scales or [1.0, 0.1]
        self.impression_epochs, self.impression_batch, self.lr = impression_epochs, impression_batch, lr
        self.noise: Literal["normal", "uniform"] = noise
        self.within: Literal["row", "column"] = within
        self.reject, self.constraint, self.augment = reject, constraint, augment
        self.kd_weight, self.temperature, self.binary = kd_weight, temperature, student_loss == "bce"
        self.kd = KD(ce_weight, 0.0 if self.binary else kd_weight, temperature, hard_targets="teacher")

    def stages(self, exp: Experiment) -> Stages:
        assert exp.teacher is not None
        if self.count < exp.data.source.classes:
            raise ConfigError("method.count", f"{self.count} is less than one for each of the classes; use more")
        self.similarity = similarity(last_linear(exp, exp.teacher).weight)
        self.made: list[Impressions] = []
        for label in range(exp.data.source.classes):
            self.made.append(self.begun(exp, label))
            if self.impressions == "synthesized":
                yield self.synthesis(exp, exp.teacher, label)
            self.made[label].requires_grad_(False)
        images = torch.cat([made.images() for made in self.made])
        stream = Shown(images, exp.recipe.batch_size, exp.plan.seed, self.augment)
        yield self.distill(exp, stream=stream, select=None, until=lambda scores: False)

    def begun(self, exp: Experiment, label: int) -> Impressions:
        """Returns noise for the impressions of class ``label``, and the targets drawn for them."""
        source, count = exp.data.source, self.count // exp.data.source.classes
        shape = (count, source.channels, source.size, source.size)
        images = torch.as_tensor(drawn(self.noise, shape, source.mean, source.std), device=exp.runtime.device)
        scales = torch.tensor(self.scales, dtype=torch.float64)[torch.arange(count) % len(self.scales)]
        around = concentrations(self.similarity.cpu(), self.within)[label]
        targets = dirichlet(around, scales, label if self.reject else None)
        made = Impressions(images, targets, self.impression_batch, source.mean, source.std)
        if self.constraint == "clamp":
            made.clamp()
        return made

    def synthesis(self, exp: Experiment, teacher: Trained, label: int) -> Stage:
        """Returns the stage that moves the noise of class ``label`` until the teacher gives it its targets."""
        made = self.made[label]

        def loss(batch: Batch, given: None) -> Terms:
            images, targets = made(batch.index)
            said = F.log_softmax(teacher(images).logits / self.temperature, 1)
            return {"impression": -(targets * said).sum(1).mean()}

        adam = partial(torch.optim.Adam, lr=self.lr)
        after_step = made.clamp if self.constraint == "clamp" else None
        update = Update(made.parameters(), loss, adam, scheduled=False, after_step=after_step)
        fields = {"stream": Places(made.batches), "epochs": self.impression_epochs}
        free = {"evaluate": None, "select": None, "until": lambda scores: False}
        return exp.stage(f"impressions{label}", [update], {"impressions": made}, **fields, **free)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        terms = self.kd.loss(student, teacher, batch)
        if self.binary and teacher:
            wanted = F.softmax(teacher.logits / self.temperature, 1)
            terms["kd"] = self.kd_weight * binary_cross_entropy(student.logits, wanted)
        return terms

    @torch.no_grad()
    def findings(self, exp: Experiment) -> Scores:
        """Returns how well the impressions came out, and how far the student follows the teacher on them."""
        assert exp.teacher is not None
        theirs, agreed, apart = [], [], []
        for label, made in enumerate(self.made):
            for images, targets in zip(made.batches, torch.split(made.targets, self.impression_batch), strict=True):
                teacher, student = exp.teacher(images).logits, exp.student.eval()(images).logits
                theirs.append(teacher.argmax(1) == label)
                agreed.append(teacher.argmax(1) == student.argmax(1))
                said = F.log_softmax(teacher / self.temperature, 1)
                apart.append(F.kl_div(said, targets, reduction="none").sum(1))
        found = {"impressions_of_their_class": theirs, "agreement_on_impressions": agreed, "impressions_kl": apart}
        return {name: torch.cat(parts).float().mean().item() for name, parts in found.items()}

    def figures(self, exp: Experiment) -> Iterator[tuple[str, Figure]]:
        source, name = exp.data.source, exp.teacher.name if exp.teacher else ""
        yield "similarity", pictures.similarity(self.similarity.cpu(), source.names, f"{name}: class similarity")
        first = [pixels(made.images()[:SHOWN], source.mean, source.std).cpu() for made in self.made]
        yield "impressions", pictures.grid(first, source.names, f"{name}: {self.impressions} impressions")


def last_linear(exp: Experiment, teacher: Trained) -> nn.Linear:
    """Returns the linear layer that gives the teacher's logits.

    Raises:
        ConfigError: if the last one of its modules does not: then its rows are not the classes.
    """
    linears = [module for module in teacher.model.modules() if isinstance(module, nn.Linear)]
    source, heard = exp.data.source, []
    if linears:
        hook = linears[-1].register_forward_hook(lambda module, args, output: heard.append(output))
        with torch.no_grad():
            images = torch.zeros(1, source.channels, source.size, source.size, device=exp.runtime.device)
            logits = teacher(images).logits
        hook.remove()
        if heard and torch.equal(heard[-1], logits):
            return linears[-1]
    what = f"the logits of {teacher.name} do not come from its last linear layer; zskd needs a teacher where they do"
    raise ConfigError("teacher", what)


def binary_cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """Returns the mean over samples and classes of -p log q - (1 - p) log (1 - q), where q = softmax(logits).

    By the logarithm of the sum over the other classes, since log (1 - q) is not finite where q is rounded to 1.
    """
    itself = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    others = logits[:, None].masked_fill(itself, -torch.inf).logsumexp(2)
    whole = logits.logsumexp(1, keepdim=True)
    return -(wanted * (logits - whole) + (1 - wanted) * (others - whole)).mean()


def similarity(weight: Tensor) -> Tensor:
    """Returns the cosines (classes, classes) between the rows of ``weight`` (classes, features)."""
    rows = F.normalize(weight.detach().double(), dim=1)
    return rows @ rows.T
