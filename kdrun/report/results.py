"""Tests the models of a run on the test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.data.streams import pixels
from kdrun.report.cost import flops, parameters
from kdrun.train.loop import COSTS
from kdrun.train.metrics import agreement, beside_teacher, calibration_error, confusion, finite, measure
from kdrun.train.stage import Scores


@dataclass(frozen=True)
class Results:
    """The results of a run.

    Args:
        models: by role (teacher, baseline, student): name, scores on the test and the validation split, costs, and for
            teacher and baseline their key.
        chain: the other trained models that the method has used: name, key, scores on the validation split, and costs.
        count: the number of test images.
        confusion: the confusion matrix of the student, (classes, classes) counts; None if there are no classes.
    """

    models: dict[str, dict[str, Any]]
    chain: list[dict[str, Any]]
    count: int
    confusion: Tensor | None


def results(exp: Experiment, name: str, student: nn.Module, baseline: Trained | None, scores: Scores) -> Results:
    """Tests the models of a run and returns its results.

    Args:
        exp: the experiment, with its teacher.
        name: the name of the student.
        student: the trained student.
        baseline: the baseline; None if the run has none.
        scores: the validation scores and the costs of the student.
    """
    models: dict[str, dict[str, Any]] = {}
    outputs: dict[str, Tensor] = {}
    trained = {"teacher": exp.teacher if exp.teachers else None, "baseline": baseline}
    for role, model in trained.items():
        if model:
            row, outputs[role], _ = tested(exp, model.name, model.model, model.scores)
            models[role] = {**row, "key": model.key}
    models["student"], logits, targets = tested(exp, name, student, scores)
    counts = None
    if exp.data.source.task == "classification":
        counts = confusion(logits, targets)
        if "teacher" in outputs:
            teacher = outputs.pop("teacher")
            models["student"]["test"]["agreement"] = agreement(logits, teacher)
            for role, own in {**outputs, "student": logits}.items():
                models[role]["test"].update(beside_teacher(own, teacher, targets))
    others = {link.key: link for link in exp.chain if link not in trained.values()}
    chain = [{"name": link.name, "key": link.key, **learned(link.model, link.scores)} for link in others.values()]
    return Results(models, chain, exp.data.test.size, counts)


def tested(exp: Experiment, name: str, model: nn.Module, scores: Scores) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Returns a model's row of results, its logits on the test split, and the targets."""
    source = exp.data.source
    logits, targets = exp.predict(model, "test")
    if source.task == "classification":
        test = {**measure(source.task, logits, targets), "ece": calibration_error(logits, targets)}
    else:
        test = measure(source.task, *(pixels(images, source.mean, source.std) for images in (logits, targets)))
    finite(test, f"test of {name}")
    image = next(exp.batches("test")).images[:1]
    return {"name": name, "test": test, **learned(model, scores), "flops": flops(model, image)}, logits, targets


def learned(model: nn.Module, scores: Scores) -> dict[str, Any]:
    """Returns the validation scores of a trained model, and the costs of its training.

    The costs are those of ``train.loop.COSTS``, and the seconds of each stage as ``stages``. For an external checkpoint
    the costs are None.
    """
    costs, by_stage = ("epoch", *COSTS), "train_seconds/"
    stages = {key.removeprefix(by_stage): value for key, value in scores.items() if key.startswith(by_stage)}
    return {
        "val": {key: value for key, value in scores.items() if key not in costs and not key.startswith(by_stage)},
        **{cost: scores.get(cost) for cost in costs},
        "stages": stages,
        "parameters": parameters(model),
    }
