"""Hints for thin deep nets: the student's middle layer learns from the teacher's, then the student is distilled."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Epochs, Positive, Tap, Temperature, Weight
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stage, Stages, Step, Terms, Update, choose
from kdrun.methods.kd import soft_loss

Activation = Literal["relu", "maxout", "linear"]


class Regressor(nn.Module):
    """Maps the guided layer (N, ...) to the shape of the hint layer; discarded after the hint stage.

    Between two maps it is a valid convolution whose kernel removes the difference in size (section 2.2). If one of the
    layers is flat, it is a linear layer.

    Args:
        guided: shape (1, ...) of the student's layer.
        hint: shape (1, ...) of the teacher's layer.
        activation: activation of the teacher's layer; maxout takes the larger of two pieces.

    Raises:
        ConfigError: if the student's map is smaller than the teacher's.
    """

    def __init__(self, guided: torch.Size, hint: torch.Size, activation: Activation) -> None:
        super().__init__()
        self.hint, self.pieces = hint[1:], 2 if activation == "maxout" else 1
        self.act = nn.ReLU() if activation == "relu" else nn.Identity()
        if len(guided) == 4 == len(hint):
            kernel = (guided[2] - hint[2] + 1, guided[3] - hint[3] + 1)
            if min(kernel) < 1:
                student, teacher = ("x".join(map(str, shape[1:])) for shape in (guided, hint))
                what = f"no convolution leads from the student's {student} up to the teacher's {teacher}"
                raise ConfigError("method.guided", f"{what}; choose an earlier guided or a later hint")
            self.layer: nn.Module = nn.Conv2d(guided[1], hint[1] * self.pieces, kernel)
        else:
            linear = nn.Linear(guided[1:].numel(), self.hint.numel() * self.pieces)
            self.layer = nn.Sequential(nn.Flatten(), linear)

    def forward(self, feature: Tensor) -> Tensor:
        pieces: Tensor = self.layer(feature)
        mapped: Tensor = self.act(pieces.view(len(feature), self.pieces, *self.hint).amax(1))
        return mapped


class FitNets(Method):
    """A hint stage, then distillation with a soft term that fades out.

    Romero et al. 2015, arXiv:1412.6550, section 2.2 (hints, eq. 3) and 2.3 (algorithm 1). Departures: the squared
    error is a mean over elements, not a sum, so that it does not depend on the size of the layer; the hint stage has a
    fixed number of epochs and keeps the best by validation, while the authors stop after 100 epochs without
    improvement.
    """

    reads: ClassVar = frozenset({"logits", "features"})

    hint: Tap | None = None
    """Index of the teacher's tap that is the hint, from 0. If None, the middle one of the taps that are of the guided
    layer's kind, map or vector. A vector that must predict a whole map can die: a 32-unit ReLU layer under a 64x12x12
    map of MNIST ended with every unit at 0."""
    guided: Tap | None = None
    """Index of the student's tap that learns from the hint, from 0; the middle tap if None."""
    hint_epochs: Epochs = 10
    """Epochs of the hint stage."""
    hint_weight: Positive = 1.0
    """Weight of the hint stage's loss, ½ mean squared error."""
    regressor: Activation = "relu"
    """Activation of the regressor; it should be that of the teacher's hint layer."""
    ce_weight: Weight = 1.0
    """Weight of the cross-entropy with the labels in the second stage."""
    kd_weight: Weight = 4.0
    """Weight of the soft targets at the beginning of the second stage."""
    kd_weight_end: Weight = 0.0
    """Weight of the soft targets at the end of the decay, which is linear."""
    decay_start: Annotated[int, "[1, inf)"] = 1
    """First epoch of the decay, in the second stage."""
    decay_end: Annotated[int, "[1, inf)"] | None = None
    """Last epoch of the decay, not before ``decay_start``; the stage's last epoch if None."""
    temperature: Temperature = 3.0
    """Temperature T of the soft targets; there is no factor T^2, as in the authors' code."""
    lr_scale: Weight = 1.0
    """Factor of the second stage's learning rate, for the layers that the hint stage has trained."""

    def __post_init__(self) -> None:
        if self.decay_end is not None and self.decay_end < self.decay_start:
            raise ValueError(f"decay_end={self.decay_end} lies before decay_start={self.decay_start}")

    def setup(self, exp: Experiment) -> None:
        self.last_epoch = self.decay_end or max(exp.recipe.epochs, self.decay_start)

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.student_tap = choose("guided", self.guided, student, "student")
        alike = [tap for tap, shape in enumerate(teacher) if len(shape) == len(student[self.student_tap])]
        self.teacher_tap = choose("hint", self.hint, teacher, "teacher", alike)
        self.mapping = Regressor(student[self.student_tap], teacher[self.teacher_tap], self.regressor)

    def stages(self, exp: Experiment) -> Stages:
        self.begin(exp)
        yield self.hint_stage(exp)
        yield self.second_stage(exp)

    def hint_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Returns hint_weight ½ mean squared error (regressor(guided), hint), eq. 3."""
        return self.hint_weight * 0.5 * F.mse_loss(self.mapping(student), teacher)

    def hint_stage(self, exp: Experiment) -> Stage:
        """Returns the stage that trains the student up to its guided layer, and the regressor."""

        def loss(step: Step) -> Terms:
            hint = step.until(exp.teacher, self.teacher_tap)
            return {"hint": self.hint_loss(step.until(exp.student, self.student_tap), hint)}

        @torch.no_grad()
        def evaluate() -> Scores:
            exp.student.eval(), self.eval()
            features = (
                (exp.student.until(batch.images, self.student_tap), exp.teacher.until(batch.images, self.teacher_tap))
                for batch in exp.batches("val")
            )
            losses = [self.hint_loss(*pair) * len(pair[0]) for pair in features]
            return {"hint": torch.stack(losses).sum().item() / exp.data.val.size}

        update = Update([*exp.student.parameters(), *self.mapping.parameters()], loss)
        scored = {"deployed": None, "evaluate": evaluate, "select": "-hint"}
        return exp.stage("hint", [update], {"student": exp.student, "method": self}, epochs=self.hint_epochs, **scored)

    def second_stage(self, exp: Experiment) -> Stage:
        """Returns the stage that trains the whole student, with ``lr_scale`` for layers of the hint stage."""
        stage = self.distill(exp)
        if self.lr_scale != 1:
            trained = upstream(exp, self.student_tap)

            def optimizer(params: list[nn.Parameter]) -> Optimizer:
                two_rates = exp.recipe.optimizer([weight for weight in params if weight not in trained])
                rate = self.lr_scale * two_rates.param_groups[0]["lr"]
                two_rates.add_param_group({"params": list(trained), "lr": rate})
                return two_rates

            stage.updates[0].optimizer = optimizer
        return stage

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        distance = soft_loss(student.logits, teacher.logits, self.temperature, "cross_entropy")
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.soft_weight(batch.epoch) * distance,
        }

    def soft_weight(self, epoch: int) -> float:
        """Returns the weight of the soft targets in ``epoch`` (from 1): linear from kd_weight to kd_weight_end."""
        done = (epoch - self.decay_start + 1) / (self.last_epoch - self.decay_start + 1)
        return self.kd_weight + (self.kd_weight_end - self.kd_weight) * min(max(done, 0.0), 1.0)


def upstream(exp: Experiment, tap: int) -> dict[nn.Parameter, None]:
    """Returns the parameters of the student that the tap depends on, in their order."""
    source, params = exp.data.source, list(exp.student.parameters())
    images = torch.zeros(1, source.channels, source.size, source.size, device=exp.runtime.device)
    gradients = torch.autograd.grad(exp.student.eval().until(images, tap).sum(), params, allow_unused=True)
    return {weight: None for weight, gradient in zip(params, gradients, strict=True) if gradient is not None}
