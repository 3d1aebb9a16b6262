"""Hints for thin deep nets: the student's middle learns from the teacher's, then the whole is distilled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Method, Outputs, Scores, Stage, Stages, Terms, Update
from kdrun.methods.kd import soft_loss

Activation = Literal["relu", "maxout", "linear"]


class Regressor(nn.Module):
    """Maps the guided layer (N, ...) to the shape of the hint layer; thrown away after the hint stage.

    Between maps it is a valid convolution whose kernel makes up for the difference in size (section 2.2); from a flat
    layer, or to one, it is a linear layer.

    Args:
        guided: shape (1, ...) of the student's layer.
        hint: shape (1, ...) of the teacher's.
        activation: that of the teacher's layer; maxout takes the larger of two pieces.

    Raises:
        ConfigError: if the student's map is smaller than the teacher's.
    """

    def __init__(self, guided: torch.Size, hint: torch.Size, activation: Activation) -> None:
        super().__init__()
        self.hint, self.pieces = hint[1:], 2 if activation == "maxout" else 1
        self.act = nn.ReLU() if activation == "relu" else nn.Identity()
        self.layer: nn.Module
        if len(guided) == 4 == len(hint):
            kernel = (guided[2] - hint[2] + 1, guided[3] - hint[3] + 1)
            if min(kernel) < 1:
                student, teacher = ("x".join(map(str, shape[1:])) for shape in (guided, hint))
                what = f"no convolution leads from the student's {student} up to the teacher's {teacher}"
                raise ConfigError("method.guided", f"{what}; choose an earlier guided or a later hint")
            self.layer = nn.Conv2d(guided[1], hint[1] * self.pieces, kernel)
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
    error is a mean over elements, not a sum, so that its size does not depend on the layer's; the hint stage has a
    fixed number of epochs and keeps the best by validation, where the authors stop after 100 epochs without gain.

    Args:
        hint: which of the teacher's taps is the hint, from 0; where None the middle one of those that are maps, or
            vectors, as the guided layer is. A vector that is to speak for a whole map can die of it: a 32-unit ReLU
            layer under a 64x12x12 map of MNIST ended with every unit at 0.
        guided: which of the student's taps is guided by it, from 0; the middle one where None.
        hint_epochs: of the first stage.
        hint_weight: of the first stage's loss, ½ mean squared error.
        regressor: activation of the regressor, that of the teacher's hint layer.
        ce_weight: of the cross-entropy with the labels in the second stage.
        kd_weight: of the soft targets in the second stage, at its beginning.
        kd_weight_end: what that weight has come down to, linearly, at its end.
        decay_start: the epoch with which the weight begins to fall.
        decay_end: the epoch at which it has fallen; the stage's last where None.
        temperature: T of the soft targets; no factor T^2, as in the authors' code.
        lr_scale: learning rate of the second stage, in parts of it, for the layers that the first has trained.

    Raises:
        ValueError: if the weight has fallen before it begins to fall.
    """

    def __init__(
        self,
        hint: Annotated[int, "[0, inf)"] | None = None,
        guided: Annotated[int, "[0, inf)"] | None = None,
        hint_epochs: Annotated[int, "[1, 100000]"] = 10,
        hint_weight: Annotated[float, "(0, inf)"] = 1.0,
        regressor: Activation = "relu",
        ce_weight: Annotated[float, "[0, inf)"] = 1.0,
        kd_weight: Annotated[float, "[0, inf)"] = 4.0,
        kd_weight_end: Annotated[float, "[0, inf)"] = 0.0,
        decay_start: Annotated[int, "[1, inf)"] = 1,
        decay_end: Annotated[int, "[1, inf)"] | None = None,
        temperature: Annotated[float, "(0, 1000]"] = 3.0,
        lr_scale: Annotated[float, "[0, inf)"] = 1.0,
    ) -> None:
        super().__init__()
        if decay_end is not None and decay_end < decay_start:
            raise ValueError(f"decay_end={decay_end} lies before decay_start={decay_start}")
        self.hint, self.guided, self.hint_epochs, self.hint_weight = hint, guided, hint_epochs, hint_weight
        self.activation: Activation = regressor
        self.ce_weight, self.temperature = ce_weight, temperature
        self.kd_weight, self.kd_weight_end = kd_weight, kd_weight_end
        self.decay_start, self.decay_end = decay_start, decay_end
        self.lr_scale = lr_scale

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.guided = choose("guided", self.guided, student, "student")
        alike = [tap for tap, shape in enumerate(teacher) if len(shape) == len(student[self.guided])]
        self.hint = choose("hint", self.hint, teacher, "teacher", alike)
        self.regressor = Regressor(student[self.guided], teacher[self.hint], self.activation)

    def stages(self, exp: Experiment) -> Stages:
        self.connect(exp.shapes(exp.student), exp.shapes(exp.teacher))
        self.decay_end = self.decay_end or max(exp.recipe.epochs, self.decay_start)
        yield self.hint_stage(exp)
        yield self.second_stage(exp)

    def hint_stage(self, exp: Experiment) -> Stage:
        """Returns the stage that trains the student up to its guided layer, and the regressor."""
        student, teacher, tap, guided = exp.student, exp.teacher, self.hint, self.guided
        assert teacher is not None and tap is not None and guided is not None

        def given(batch: Batch) -> Tensor:
            return teacher.model.until(batch.images, tap)

        def loss(batch: Batch, hint: Tensor) -> Terms:
            guess = self.regressor(student.until(batch.images, guided))
            return {"hint": self.hint_weight * 0.5 * F.mse_loss(guess, hint)}

        @torch.no_grad()
        def evaluate() -> Scores:
            student.eval(), self.eval()
            losses = [loss(batch, given(batch))["hint"] * len(batch.images) for batch in exp.batches("val")]
            return {"hint": torch.stack(losses).sum().item() / len(exp.data.val.images)}

        modules = {"student": student, "method": self}
        moved = [*student.parameters(), *self.regressor.parameters()]
        changes = {"given": given, "evaluate": evaluate, "select": "-hint", "until": lambda scores: False}
        return exp.stage("hint", [Update(moved, loss)], modules, epochs=self.hint_epochs, **changes)

    def second_stage(self, exp: Experiment) -> Stage:
        """Returns the stage that trains the whole student, what the first has trained at a rate of its own."""
        stage = self.distill(exp)
        if self.lr_scale == 1:
            return stage
        assert self.guided is not None
        trained = upstream(exp, self.guided)

        def optimizer(params: list[nn.Parameter]) -> Optimizer:
            made = exp.recipe.optimizer([parameter for parameter in params if parameter not in trained])
            made.add_param_group({"params": list(trained), "lr": self.lr_scale * made.param_groups[0]["lr"]})
            return made

        stage.updates[0].optimizer = optimizer
        return stage

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        assert teacher is not None
        apart = soft_loss(student.logits, teacher.logits, self.temperature, "cross_entropy")
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "kd": self.soft_weight(batch.epoch) * apart,
        }

    def soft_weight(self, epoch: int) -> float:
        """Returns the weight of the soft targets in ``epoch`` (from 1): linear from kd_weight to kd_weight_end."""
        assert self.decay_end is not None
        done = (epoch - self.decay_start + 1) / (self.decay_end - self.decay_start + 1)
        return self.kd_weight + (self.kd_weight_end - self.kd_weight) * min(max(done, 0.0), 1.0)


def upstream(exp: Experiment, tap: int) -> dict[nn.Parameter, None]:
    """Returns the parameters of the student that the tap depends on, in their order."""
    source, params = exp.data.source, list(exp.student.parameters())
    images = torch.zeros(1, source.channels, source.size, source.size, device=exp.runtime.device)
    found = torch.autograd.grad(exp.student.eval().until(images, tap).sum(), params, allow_unused=True)
    return {parameter: None for parameter, gradient in zip(params, found, strict=True) if gradient is not None}


def choose(key: str, tap: int | None, shapes: list[torch.Size], role: str, among: Sequence[int] = ()) -> int:
    """Returns which tap is meant: ``tap``, or the middle one of ``among`` where None; of all where that is empty.

    Raises:
        ConfigError: if the model has no such tap.
    """
    if not shapes:
        raise ConfigError(f"{role}.taps", f"method fitnets needs a tap in the {role}; name a submodule")
    if tap is not None and tap >= len(shapes):
        raise ConfigError(f"method.{key}", f"{tap} is out of range: the {role} has taps 0 to {len(shapes) - 1}")
    among = among or range(len(shapes))
    return among[len(among) // 2] if tap is None else tap
