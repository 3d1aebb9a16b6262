"""What TensorBoard shows of a finished run beside its curves."""

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


def illustrate(record: Record, exp: Experiment, config: Config, found: Results, summary: Summary) -> None:
    """Shows in TensorBoard what the run was, what its data set looks like in training and where the student errs."""
    source = exp.data.source
    record.text("config", (record.folder / "config.yaml").read_text())
    batch = next(exp.stream("samples", min(32, exp.data.few.size)).epoch(1))
    record.images("training images", pixels(batch.images, source.mean, source.std))
    if found.confusion is not None:
        title = f"{summary['student']} by {summary['method']}: {found.count:,} test images"
        record.figure("confusion", figures.confusion(found.confusion, source.names, title))
    flat = {name: config[name] for name in ("seed", "epochs", "batch_size", "precision")}
    nodes = {name: config[name] or {} for name in ("dataset", "teacher", "student", "method", "optimizer")}
    named = {name: node.get("name", "none") for name, node in nodes.items()}
    told = {score.name: found.models["student"]["test"][score.name] for score in TASKS[source.task]}
    record.hparams({**named, **flat}, told)
    record.findings(summary.get("findings", {}))


def draw_curves(record: Record, exp: Experiment, alone: Trained | None, summary: Summary) -> None:
    """Shows how teacher, student alone and student came to what they are, those that were trained by kdrun."""
    trained = {f"teacher {summary['teacher']}": exp.teacher, f"{summary['student']} alone": alone}
    known = {label: read_rows(one.folder / "metrics.jsonl") for label, one in trained.items() if one and one.folder}
    given = {label: one.scores[exp.main.name] for label, one in trained.items() if one and not one.folder}
    rows = {label: found for label, found in known.items() if found != record.rows}  # the run may be the student alone
    rows[f"{summary['student']} by {summary['method']}"] = record.rows
    record.figure("curves", curves(rows, exp.main, f"{summary['dataset']}, seed {summary['seed']}", given))
