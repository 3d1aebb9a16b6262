"""Scores of a model on its data set's task."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from kdrun.errors import TrainingError
from kdrun.train.stage import Batch, Outputs, Scores

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Model = Callable[[Tensor], Outputs]


@dataclass(frozen=True)
class Score:
    """A score: its name, whether more is better, whether it is printed in percent, and the interval it lies in."""

    name: str
    more_is_better: bool = True
    percent: bool = False
    interval: str = "[-3.5e38, 3.5e38]"  # what fp32 can hold

    @property
    def select(self) -> str:
        """The name in the form of ``Stage.select``: with ``-`` in front if less is better."""
        return self.name if self.more_is_better else f"-{self.name}"

    def text(self, value: float, spread: float | None = None, *, sign: bool = False) -> str:
        """Returns ``value`` as printed in a table, with its standard deviation ``spread``.

        With ``sign`` the value is a difference; a difference of accuracies is in percentage points (pp).
        """
        scale, unit, digits = (100, " pp" if sign else " %", 2) if self.percent else (1, "", 4)
        text = f"{value * scale:{'+' if sign else ''}.{digits}f}"
        return text + (f" ± {spread * scale:.{digits}f}" if spread is not None else "") + unit


TASKS = {
    "classification": (
        Score("top1", percent=True, interval="[0, 1]"),
        Score("loss", more_is_better=False, interval="[0, 3.5e38]"),
    ),
    "translation": (
        Score("psnr_db", interval="[-400, 400]"),
        Score("l1", more_is_better=False, interval="[0, 3.5e38]"),
    ),
}
"""The scores of each task; the first one selects the best epoch and comes first in every table."""


def called(name: str) -> Score:
    """Returns the score whose format ``name`` takes: ``classifier1/top1`` and ``top1_teacher_wrong`` that of top1."""
    word = name.rpartition("/")[2]
    known = (score for scores in TASKS.values() for score in scores)
    return next((score for score in known if word == score.name or word.startswith(f"{score.name}_")), Score(name))


SHARES = re.compile(r"top1(_teacher_(right|wrong))?|ece|agreement")
"""Scores that are parts of the images, or lie between 0 and 1 like them."""


def interval(name: str) -> str:
    """Returns the interval in which the score ``name`` lies."""
    word = name.rpartition("/")[2]
    return (
        "[0, 1]"
        if SHARES.fullmatch(word)
        else next(
            (score.interval for scores in TASKS.values() for score in scores if score.name == word),
            Score(name).interval,
        )
    )


def finite(scores: Scores, where: str) -> Scores:
    """Returns ``scores`` if all of them are numbers.

    Raises:
        TrainingError: naming ``where`` and the score that is not finite.
    """
    for name, value in scores.items():
        if not math.isfinite(value):
            raise TrainingError(where, f"score {name} is not finite; try a smaller learning rate")
    return scores


@torch.no_grad()
def predict(model: Model, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Returns the logits of all batches in fp32, (N, classes) or images, and the targets; both on the device."""
    pairs = [(model(batch.images).logits.float(), batch.targets) for batch in batches]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([targets for _, targets in pairs])


def measure(task: str, logits: Tensor, targets: Tensor) -> Scores:
    """Returns the scores of ``task``: top1 in [0, 1] and cross-entropy in nats, or PSNR in dB, at most 380, and L1.

    Args:
        task: a key of ``TASKS``.
        logits: (N, classes), or images (N, C, H, W) of pixels in [0, 1].
        targets: (N,) class ids, or images of the shape and range of ``logits``.
    """
    if task == "classification":
        top1 = (logits.argmax(1) == targets).float().mean()
        return {"top1": top1.item(), "loss": F.cross_entropy(logits, targets).item()}
    distance = logits - targets
    # without any error the PSNR would be infinite, which no record can hold
    error = distance.square().mean().clamp_min(torch.finfo(torch.float32).tiny)
    return {"psnr_db": -10 * error.log10().item(), "l1": distance.abs().mean().item()}


def endpoint_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the Euclidean distance of two maps (N, C, H, W), over channels, as a mean over samples and pixels."""
    lengths: Tensor = torch.linalg.vector_norm(outputs - targets, dim=1)
    return lengths.mean()


BINS = 15
"""The number of bins of confidence of the calibration error."""


def calibration_error(logits: Tensor, targets: Tensor) -> float:
    """Returns the expected calibration error in [0, 1], with 15 equal bins of confidence.

    A confidence on an edge belongs to the bin above it: those that fp32 rounds to 1 have a bin of their own, a 16th.

    Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    confidence, predicted = logits.softmax(1).max(1)
    edges = torch.linspace(0, 1, BINS + 1, device=logits.device, dtype=confidence.dtype)
    gaps = (predicted == targets).double() - confidence.double()
    return (torch.bincount(torch.bucketize(confidence, edges, right=True), gaps).abs().sum() / len(gaps)).item()


def agreement(predicted: Tensor, teacher: Tensor) -> float:
    """Returns the part of the samples, in [0, 1], for which model and teacher predict the same class.

    Args:
        predicted: (N,) the class that the model predicts, of each sample.
        teacher: (N,) the class that the teacher predicts.
    """
    return (predicted == teacher).float().mean().item()


def beside_teacher(predicted: Tensor, teacher: Tensor, targets: Tensor) -> Scores:
    """Returns top1 on the samples that the teacher classifies correctly, and on the rest; an empty set is left out.

    Args:
        predicted: (N,) the class that the model predicts, of each sample.
        teacher: (N,) the class that the teacher predicts.
        targets: (N,) the true class.
    """
    right, theirs = predicted == targets, teacher == targets
    parts = {"top1_teacher_right": right[theirs], "top1_teacher_wrong": right[~theirs]}
    return {name: part.float().mean().item() for name, part in parts.items() if len(part)}


def confusion(predicted: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Returns the confusion matrix (classes, classes) int64: rows are true classes, columns predicted ones.

    Args:
        predicted: (N,) the class that the model predicts, of each sample.
        targets: (N,) the true class.
        classes: the number of classes.
    """
    return torch.bincount(targets * classes + predicted, minlength=classes**2).view(classes, classes)
