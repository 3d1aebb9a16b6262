"""The figures, images and texts of a finished run in TensorBoard."""

from __future__ import annotations

from typing import Any

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.data.streams import pixels
from kdrun.report import figures
from kdrun.report.curves import curves
from kdrun.report.results import Results
from kdrun.store.record import Record, read_rows
from kdrun.train.metrics import TASKS

Config = dict[str, Any]
Summary = dict[str, Any]


def illustrate(record: Record, exp: Experiment, config: Config, measured: Results, summary: Summary) -> None:
    """Adds the config, a batch of training images and the final scores to TensorBoard."""
    source = exp.data.source
    record.text("config", (record.folder / "config.yaml").read_text())
    batch = next(exp.stream("samples", min(32, exp.data.subset.size)).epoch(1))
    record.images("training images", pixels(batch.images, source.mean, source.std))
    flat = {name: config[name] for name in ("seed", "epochs", "batch_size", "precision")}
    nodes = {name: config[name] or {} for name in ("dataset", "teacher", "student", "method", "optimizer")}
    named = {name: node.get("name", "none") for name, node in nodes.items()}
    scores = {score.name: measured.models["student"]["test"][score.name] for score in TASKS[source.task]}
    record.hparams({**named, **flat}, scores)
    metrics = summary.get("method_metrics", {})
    record.method_metrics({name: value for name, value in metrics.items() if value is not None})


def plot_confusion(record: Record, exp: Experiment, measured: Results, summary: Summary) -> None:
    """Plots the confusion matrix of the student, if the data set has classes."""
    if measured.confusion is not None:
        title = f"{summary['student']} by {summary['method']}: {measured.count:,} test images"
        record.figure("confusion", figures.confusion(measured.confusion, exp.data.source.names, title))


def plot_curves(record: Record, exp: Experiment, baseline: Trained | None, summary: Summary) -> None:
    """Plots the curves of teacher, baseline and student; an external teacher is a horizontal line."""
    teacher = exp.teacher if exp.teachers else None
    trained = {f"teacher {summary['teacher']}": teacher, f"{summary['student']} alone": baseline}
    known = {label: read_rows(one.folder / "metrics.jsonl") for label, one in trained.items() if one and one.folder}
    levels = {label: one.scores[exp.main.name] for label, one in trained.items() if one and not one.folder}
    rows = {label: own for label, own in known.items() if own != record.rows}  # the run itself may be the baseline
    rows[f"{summary['student']} by {summary['method']}"] = record.rows
    record.figure("curves", curves(rows, exp.main, f"{summary['dataset']}, seed {summary['seed']}", levels))
