"""What a run's models are worth on the test split, which is read here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.data.streams import pixels
from kdrun.report.cost import flops, parameters
from kdrun.train.metrics import agreement, beside_teacher, calibration_error, confusion, measure
from kdrun.train.stage import Scores


@dataclass(frozen=True)
class Results:
    """Measured at the end of a run.

    Args:
        models: by role (teacher, alone, student): name, scores on test and validation, and what it costs; of a
            trained model its key in the store.
        links: the further trained models that the method asked for: name, scores on validation, and costs.
        count: of test images.
        confusion: of the student, (classes, classes) counts; None where there are no classes.
    """

    models: dict[str, dict[str, Any]]
    links: list[dict[str, Any]]
    count: int
    confusion: Tensor | None


def results(exp: Experiment, name: str, alone: Trained | None, scores: Scores) -> Results:
    """Returns the results of a run whose student, called ``name``, ended with the validation ``scores``."""
    models: dict[str, dict[str, Any]] = {}
    heard: dict[str, Tensor] = {}
    for role, trained in (("teacher", exp.teacher), ("alone", alone)):
        if trained:
            row, heard[role], _ = tested(exp, trained.name, trained.model, trained.scores)
            models[role] = {**row, "key": trained.key}
    models["student"], logits, targets = tested(exp, name, exp.student, scores)
    counts = None
    if exp.data.source.task == "classification":
        counts = confusion(logits, targets)
        if "teacher" in heard:
            teacher = heard.pop("teacher")
            models["student"]["test"]["agreement"] = agreement(logits, teacher)
            for role, said in {**heard, "student": logits}.items():
                models[role]["test"].update(beside_teacher(said, teacher, targets))
    asked_for = {link.key: link for link in exp.links if link is not exp.teacher and link is not alone}
    links = [{"name": link.name, "key": link.key, **learned(link.model, link.scores)} for link in asked_for.values()]
    return Results(models, links, exp.data.test.size, counts)


def tested(exp: Experiment, name: str, model: nn.Module, scores: Scores) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Returns a model's row of results, its logits on the test split, and the targets."""
    source = exp.data.source
    logits, targets = exp.predict(model, "test")
    if source.task == "classification":
        test = {**measure(source.task, logits, targets), "ece": calibration_error(logits, targets)}
    else:
        test = measure(source.task, *(pixels(images, source.mean, source.std) for images in (logits, targets)))
    image = next(exp.batches("test")).images[:1]
    return {"name": name, "test": test, **learned(model, scores), "flops": flops(model, image)}, logits, targets


def learned(model: nn.Module, scores: Scores) -> dict[str, Any]:
    """Returns the validation scores of a trained model, and what it cost to get them.

    ``seconds`` of training, also by stage as ``stages``; ``asked``, how many images frozen models were shown for it.
    None of it is known of a checkpoint that was brought along.
    """
    costs = ("epoch", "seconds", "asked")
    stages = {key.removeprefix("seconds/"): value for key, value in scores.items() if key.startswith("seconds/")}
    return {
        "val": {key: value for key, value in scores.items() if key not in costs and not key.startswith("seconds/")},
        **{cost: scores.get(cost) for cost in costs},
        "stages": stages,
        "parameters": parameters(model),
    }
