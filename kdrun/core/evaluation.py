"""Scores of trained models: measured once for each model and split, and kept beside the models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.store import weights
from kdrun.store.evaluations import MEASURES, Evaluation


def circumstances(exp: Experiment, split: str) -> dict[str, Any]:
    """Returns everything that the scores on a split (``val``, ``test``) depend on, apart from the model."""
    source, images = exp.data.source, getattr(exp.data, split)
    return {
        "measures": MEASURES,
        "split": split,
        "task": source.task,
        "classes": source.classes,
        "data": images.digest(),
        "images": images.size,
        "normalization": [source.mean, source.std],
        "batch_size": exp.evaluation_batch,
        "compile": exp.runtime.compile,
        "environment": exp.runtime.environment(),
    }


def evaluated(
    exp: Experiment, model: Trained, conditions: dict[str, Any], measure: Callable[[], Evaluation]
) -> Evaluation:
    """Returns the evaluation of the frozen ``model``: that of an earlier run, or what ``measure`` returns.

    Args:
        exp: the experiment; one without a store of evaluations measures.
        model: the trained model.
        conditions: those of the split, see ``circumstances``.
        measure: runs the model on the split.
    """
    if exp.evaluations is None:
        return measure()
    net = model.model
    fields = {"model": model.key, "weights": weights.digest(net.state_dict(), repr(net)), **conditions}
    return exp.evaluations.get(model.name, fields, measure)
