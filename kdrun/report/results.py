"""Tests the models of a run on the test split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.core.evaluation import circumstances, evaluated
from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.data.streams import pixels
from kdrun.report.cost import flops, parameters
from kdrun.store.evaluations import Evaluation
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
    known = {"teacher": exp.teacher if exp.teachers else None, "baseline": baseline}
    trained = {role: model for role, model in known.items() if model}
    conditions = circumstances(exp, "test") if trained else {}
    tests = {
        role: evaluated(exp, model, conditions, partial(tested, exp, model.name, model.model))
        for role, model in trained.items()
    }
    models = {
        role: {**row(model.name, tests[role], learned(model.model, model.scores)), "key": model.key}
        for role, model in trained.items()
    }
    tests["student"] = tested(exp, name, student)
    models["student"] = row(name, tests["student"], learned(student, scores))
    predicted = {role: torch.tensor(test.predicted) for role, test in tests.items() if test.predicted is not None}
    counts = None
    if predicted:
        targets = exp.data.test.targets.cpu()
        compare(models, predicted, targets)
        counts = confusion(predicted["student"], targets, exp.data.source.classes)
    others = {link.key: link for link in exp.chain if link not in trained.values()}
    chain = [{"name": link.name, "key": link.key, **learned(link.model, link.scores)} for link in others.values()]
    return Results(models, chain, exp.data.test.size, counts)


def row(name: str, test: Evaluation, learning: dict[str, Any]) -> dict[str, Any]:
    """Returns a model's row of results."""
    return {"name": name, "test": dict(test.scores), **learning, "flops": test.flops}


def compare(models: dict[str, dict[str, Any]], predicted: dict[str, Tensor], targets: Tensor) -> None:
    """Adds the scores beside the teacher to the rows of the other models.

    Args:
        models: the rows by role.
        predicted: (N,) the classes that each model predicts, by role.
        targets: (N,) the true classes.
    """
    if "teacher" not in predicted:
        return
    teacher = predicted["teacher"]
    models["student"]["test"]["agreement"] = agreement(predicted["student"], teacher)
    for role, own in predicted.items():
        if role != "teacher":
            models[role]["test"].update(beside_teacher(own, teacher, targets))


def tested(exp: Experiment, name: str, model: nn.Module) -> Evaluation:
    """Runs ``model`` on the test split and returns what is measured."""
    source, predicted = exp.data.source, None
    logits, targets = exp.predict(model, "test")
    if source.task == "classification":
        scores = {**measure(source.task, logits, targets), "ece": calibration_error(logits, targets)}
        predicted = logits.argmax(1).tolist()
    else:
        scores = measure(source.task, *(pixels(images, source.mean, source.std) for images in (logits, targets)))
    finite(scores, f"test of {name}")
    image = next(exp.batches("test")).images[:1]
    return Evaluation(scores, flops(model, image), predicted)


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
