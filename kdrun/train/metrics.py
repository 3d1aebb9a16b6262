"""How good a model is at its data set's task."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from kdrun.train.stage import Batch, Outputs, Scores

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Model = Callable[[Tensor], Outputs]


@dataclass(frozen=True)
class Score:
    """One measure: its name, whether more is better, and whether it is printed in percent."""

    name: str
    more_is_better: bool = True
    percent: bool = False

    @property
    def select(self) -> str:
        """The name as a stage selects by it: ``-`` before it where less is better."""
        return self.name if self.more_is_better else f"-{self.name}"

    def text(self, value: float, spread: float | None = None, *, sign: bool = False) -> str:
        """Returns ``value``, and its standard deviation ``spread``, as printed in a table.

        With ``sign`` it is a difference: that of two accuracies is in percentage points, pp.
        """
        scale, unit, digits = (100, " pp" if sign else " %", 2) if self.percent else (1, "", 4)
        shown = f"{value * scale:{'+' if sign else ''}.{digits}f}"
        return shown + (f" ± {spread * scale:.{digits}f}" if spread is not None else "") + unit


TASKS = {
    "classification": (Score("top1", percent=True), Score("loss", more_is_better=False)),
    "translation": (Score("psnr_db"), Score("l1", more_is_better=False)),
}
"""The scores of each task; the first selects and leads every table."""


def called(name: str) -> Score:
    """Returns how a measure called ``name`` is printed: ``classifier1/top1``, ``top1_teacher_wrong`` as top1 is."""
    word = name.rpartition("/")[2]
    known = (score for scores in TASKS.values() for score in scores)
    return next((score for score in known if word == score.name or word.startswith(f"{score.name}_")), Score(name))


@torch.no_grad()
def predict(model: Model, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Returns the logits of all batches, (N, classes) or images, and their targets; fp32, on the device."""
    pairs = [(model(batch.images).logits.float(), batch.targets) for batch in batches]
    return torch.cat([logits for logits, _ in pairs]), torch.cat([targets for _, targets in pairs])


def measure(task: str, logits: Tensor, targets: Tensor) -> Scores:
    """Returns the scores of ``task``: top1 in [0, 1] and cross-entropy in nats, or PSNR in dB and L1.

    Args:
        task: a key of ``TASKS``.
        logits: (N, classes), or images (N, C, H, W) of pixels in [0, 1].
        targets: (N,) class ids, or images as ``logits``.
    """
    if task == "classification":
        top1 = (logits.argmax(1) == targets).float().mean()
        return {"top1": top1.item(), "loss": F.cross_entropy(logits, targets).item()}
    apart = logits - targets
    return {"psnr_db": -10 * apart.square().mean().log10().item(), "l1": apart.abs().mean().item()}


def endpoint_error(made: Tensor, wanted: Tensor) -> Tensor:
    """Returns the mean over samples and pixels of the distance of two maps (N, C, H, W), each pixel a vector."""
    lengths: Tensor = torch.linalg.vector_norm(made - wanted, dim=1)
    return lengths.mean()


def calibration_error(logits: Tensor, targets: Tensor) -> float:
    """Returns the expected calibration error in [0, 1], of 15 equal bins of confidence.

    Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    return multiclass_calibration_error(logits.softmax(1), targets, num_classes=logits.shape[1], n_bins=15).item()


def agreement(logits: Tensor, teacher: Tensor) -> float:
    """Returns the part of the samples, in [0, 1], on which the two name the same class."""
    return (logits.argmax(1) == teacher.argmax(1)).float().mean().item()


def beside_teacher(logits: Tensor, teacher: Tensor, targets: Tensor) -> Scores:
    """Returns top1 on the samples that the teacher gets right, and on those that it gets wrong, where there are any."""
    right, theirs = logits.argmax(1) == targets, teacher.argmax(1) == targets
    parts = {"top1_teacher_right": right[theirs], "top1_teacher_wrong": right[~theirs]}
    return {name: part.float().mean().item() for name, part in parts.items() if len(part)}


def confusion(logits: Tensor, targets: Tensor) -> Tensor:
    """Returns how often class row was taken for class column: (classes, classes) int64."""
    classes = logits.shape[1]
    return torch.bincount(targets * classes + logits.argmax(1), minlength=classes**2).view(classes, classes)
