"""What a run's models are worth on the test split, which is read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdrun.experiment import Experiment, Trained, pixels
from kdrun.report.cost import flops, parameters
from kdrun.scores import agreement, calibration_error, confusion, measure
from kdrun.stage import Scores


@dataclass(frozen=True)
class Results:
    """Measured at the end of a run.

    Args:
        models: by role (teacher, alone, student): name, scores on test and validation, parameters, flops, seconds.
        count: of test images.
        confusion: of the student, (classes, classes) counts; None where there are no classes.
    """

    models: dict[str, dict[str, Any]]
    count: int
    confusion: Tensor | None


def results(exp: Experiment, name: str, alone: Trained | None, scores: Scores) -> Results:
    """Returns the results of a run whose student, called ``name``, ended with the validation ``scores``."""
    models: dict[str, dict[str, Any]] = {}
    heard: dict[str, Tensor] = {}
    for role, trained in (("teacher", exp.teacher), ("alone", alone)):
        if trained:
            models[role], heard[role], _ = tested(exp, trained.name, trained.model, trained.scores)
    models["student"], logits, targets = tested(exp, name, exp.student, scores)
    counts = None
    if exp.data.source.task == "classification":
        counts = confusion(logits, targets)
        if "teacher" in heard:
            models["student"]["test"]["agreement"] = agreement(logits, heard["teacher"])
    return Results(models, exp.data.test.size, counts)


def tested(exp: Experiment, name: str, model: nn.Module, scores: Scores) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Returns a model's row of results, its logits on the test split, and the targets."""
    source = exp.data.source
    logits, targets = exp.predict(model, "test")
    if source.task == "classification":
        test = {**measure(source.task, logits, targets), "ece": calibration_error(logits, targets)}
    else:
        test = measure(source.task, *(pixels(images, source.mean, source.std) for images in (logits, targets)))
    image = next(exp.batches("test")).images[:1]
    row = {
        "name": name,
        "test": test,
        "val": {key: value for key, value in scores.items() if key not in ("seconds", "epoch")},
        "epoch": scores.get("epoch"),
        "parameters": parameters(model),
        "flops": flops(model, image),
        "seconds": scores.get("seconds"),
    }
    return row, logits, targets
