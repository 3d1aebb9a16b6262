"""One run, from its config to its closing table."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from kdrun.config.nodes import Node
from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.core.sequence import Outcome
from kdrun.data.splits import Data
from kdrun.errors import ConfigError, InputError, Interrupted, KdrunError, TrainingError
from kdrun.methods.base import AnyMethod
from kdrun.models.loading import lasting
from kdrun.report.closing import closing, closing_line
from kdrun.report.display import Display
from kdrun.report.illustrate import illustrate, plot_confusion, plot_curves
from kdrun.report.plan import show_plan
from kdrun.report.results import Results, results
from kdrun.run.assembly import Assembly, Config, assemble, baseline_model, is_baseline, teach
from kdrun.run.endings import explanation
from kdrun.run.settings import settled
from kdrun.store import files, weights
from kdrun.store.checkpoint import journals, read_state
from kdrun.store.format import RECORD_FORMAT
from kdrun.store.model_store import differences
from kdrun.store.record import Record, versions
from kdrun.store.run_folder import is_free, is_whole, refuse_another, refuse_other_fields, taken
from kdrun.train.runtime import Interrupt, Runtime
from kdrun.train.stage import Scores
from kdrun.train.taps import Tapped

Summary = dict[str, Any]

FAST_IMAGES = 256
"""The most validation images, and the most test images, of a run with ``fast_dev_run``."""


def run(config: Config, folder: Path, overrides: list[str], *, brief: bool = False, resumes: bool = True) -> Summary:
    """Does the run that ``config`` describes, and prints its results; resumes it if ``folder`` holds a part of it.

    Args:
        config: the whole config, as plain values, resolved.
        folder: the run folder; nothing is written before everything is built and rehearsed.
        overrides: the overrides of the command line; they are only recorded.
        brief: whether it is a job of a sweep: it prints one line at the end instead of a table, and by default plots no
            figures.
        resumes: whether it may be resumed; else a ``folder`` that another run has taken is refused.

    Returns:
        The content of the folder's summary.json; ``score`` is the task's first score on the test split.

    Raises:
        KdrunError: any of its kinds. If training has begun, the folder records it, with a traceback in error.txt.
    """
    configured, config = config, settled(config, in_sweep=brief)
    with Display() as display, Interrupt() as interrupt:
        if configured["precision"] == "auto":
            display.notice(f"precision=auto is {config['precision']} for these models on this machine")
        try:
            summary = execute(config, folder, overrides, display, interrupt, resumes)
            interrupt.check("the end")  # a sweep must not go on with its next job
        except BaseException as error:
            if isinstance(error, Interrupted) and (folder / "config.yaml").is_file():
                display.notice(f"what was trained is saved; go on with: kdrun train resume={folder}")
            if (explained := explanation(error, folder, too_large(config, folder))) is not error:
                raise explained from error
            raise
    if summary["status"] == "done":
        (closing_line if brief else closing)(display.console, summary, folder)
    return summary


def too_large(config: Config, folder: Path) -> TrainingError:
    """Returns the error of a run that lacks memory: once training has begun its batches are too large, else its data"""
    if (folder / "config.yaml").is_file():
        return TrainingError("batch_size", f"{config['batch_size']} needs more memory than there is")
    return TrainingError("dataset", f"{config['dataset']['name']} needs more memory than there is")


def execute(
    config: Config, folder: Path, overrides: list[str], display: Display, interrupt: Interrupt, resumes: bool
) -> Summary:
    """Builds and rehearses the run, reads the data, trains and tests."""
    assembly = assemble(config, Runtime.of(config, interrupt), display.listen, display.notice)
    stages = assembly.summaries()
    if config["dry_run"]:
        show_plan(display.console, assembly.exp, assembly.models(), stages)
        return {"status": "dry run"}
    with interrupt.at_once("reading the data"):
        data = Data.read(assembly.exp.data.source)
    if config["fast_dev_run"]:
        data = data.first(FAST_IMAGES)
    exp = assembly.on(data.to(assembly.exp.runtime.device))
    for note in data.notes:
        display.notice(f"dataset {config['dataset']['name']}: {note}")
    record = Record(folder, f"{config['student']['name']} by {config['method']['name']}", display.listen)
    try:
        if not (resumes or is_free(folder)):  # asked under the lock: of two runs at once, one gets the name
            raise taken(folder)
        refuse_another(folder, config)
    except BaseException:
        record.close()
        raise
    try:
        return train_and_test(exp, assembly, record, overrides)
    except BaseException as error:
        note_failure(record, config, overrides, error)
        raise
    finally:
        record.close()


def train_and_test(exp: Experiment, assembly: Assembly, record: Record, overrides: list[str]) -> Summary:
    """Trains teacher, baseline and student, except those that are already trained, and tests them."""
    config = assembly.config
    if difference := differences(exp.runtime.environment(), record.facts.get("environment", {})):
        exp.notice(f"the environment has changed since the run began: {difference}; the last bits may differ")
    about = {"status": "running", "started": time.time(), "overrides": overrides, "versions": versions()}
    record.about(format=RECORD_FORMAT, **about, environment=exp.runtime.environment())
    record.config({**config, "resume": None})  # last: with it, the record is whole
    exp = teach(exp, assembly.teacher)
    for teacher in exp.teachers:
        record.about(teacher={"name": teacher.name, "key": teacher.key, "val": teacher.scores})
    fields = exp.key_fields(config["student"], config["method"], exp.teacher if exp.teachers else None, exp.plan)
    refuse_other_fields(record.folder, fields)
    record.about(fields=fields)
    baseline = baseline_model(exp, config)
    if baseline and is_baseline(exp, config):
        return conclude(exp, config, None, baseline, adopt(exp, baseline, record), record, overrides)
    outcome = exp.follow(assembly.method, journals(record, fields))
    return conclude(exp, config, assembly.method, baseline, outcome, record, overrides)


def conclude(
    exp: Experiment,
    config: Config,
    method: AnyMethod | None,
    baseline: Trained | None,
    outcome: Outcome,
    record: Record,
    overrides: list[str],
) -> Summary:
    """Tests the trained models, writes the student's weights, and completes the record.

    Args:
        exp: the experiment, with its student trained.
        config: the recorded config.
        method: the method that trained the student; None if its training was adopted from the baseline.
        baseline: the baseline; None if the run has none.
        outcome: the result of the student's training.
        record: the record of the run.
        overrides: the overrides of the command line.
    """
    student = outcome.deployed
    record.check_place()
    weights.write(record.folder / "student.safetensors", network(student))
    write_last(student, record)
    measured = results(exp, config["student"]["name"], student, baseline, outcome.scores)
    summary = summarize(config, exp, measured, overrides)
    halt = partial(exp.runtime.interrupt.check, "tests and figures")
    halt()
    if method:
        summary["method_metrics"] = measurable(method.metrics(exp), exp.notice)
        for name, figure in method.figures(exp) if config["figures"] else ():
            halt()
            record.figure(name, figure)
    halt()
    illustrate(record, exp, config, measured, summary)
    if config["figures"]:
        plot_confusion(record, exp, measured, summary)
        plot_curves(record, exp, baseline, summary)
    summary["files"] = record.digests()
    record.write_json("summary.json", summary)
    record.about(status="done", ended=time.time())
    return summary


def measurable(metrics: Scores, notice: Callable[[str], None]) -> dict[str, float | None]:
    """Returns ``metrics`` with None for what is no finite number, which JSON cannot hold; ``notice`` is told of it."""
    kept = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    for name in (name for name, value in kept.items() if value is None):
        notice(f"method metric {name} is not finite ({metrics[name]}); it is recorded as null")
    return kept


def adopt(exp: Experiment, baseline: Trained, record: Record) -> Outcome:
    """Copies weights and rows of the baseline to the run, whose student is trained in exactly the same way."""
    assert baseline.folder is not None
    exp.student.load_state_dict(baseline.model.state_dict())
    record.adopt(baseline.folder)
    return Outcome(baseline.scores, exp.student)


def network(deployed: nn.Module) -> nn.Module:
    """Returns the deployed model without its taps: it maps images to one tensor."""
    return deployed.model if isinstance(deployed, Tapped) else deployed


def write_last(deployed: nn.Module, record: Record) -> None:
    """Writes the deployed model's weights after the last epoch, in addition to those of the best epoch."""
    paths = sorted(record.folder.glob("stages/*.last.pt"))
    if paths and (read := read_state(paths[-1], record.origin, {"deployed": str})):
        state = read[0]
        prefix = f"{state['deployed']}." + ("model." if isinstance(deployed, Tapped) else "")
        own = {name.removeprefix(prefix): value for name, value in state["modules"].items() if name.startswith(prefix)}
        weights.write_state(record.folder / "student-last.safetensors", lasting(network(deployed), own))


def names(config: Config) -> Node:
    """Returns the names of data set, teacher, student and method, and the seed."""
    groups = ("dataset", "teacher", "student", "method")
    return {**{group: (config[group] or {}).get("name") for group in groups}, "seed": config["seed"]}


def summarize(config: Config, exp: Experiment, measured: Results, overrides: list[str]) -> Summary:
    """Returns the content of summary.json; docs/records.md lists its fields."""
    return {
        "status": "done",
        "format": RECORD_FORMAT,
        "task": exp.data.source.task,
        "score": measured.models["student"]["test"][exp.main.name],
        **names(config),
        "test_images": measured.count,
        "models": measured.models,
        "chain": measured.chain,
        "overrides": overrides,
        "claims": config.get("claims"),
    }


def note_failure(record: Record, config: Config, overrides: list[str], error: BaseException) -> None:
    """Records in the run folder why the run ended; the run can still be resumed."""
    if not is_whole(record.folder):
        return  # nothing is trained: the same command begins again
    if isinstance(error, (ConfigError, InputError)) and is_done(record.folder):
        return  # a refused start of a finished run: its results stay
    interrupted = isinstance(error, (Interrupted, KeyboardInterrupt))
    status = "interrupted" if interrupted else "failed"
    try:
        if not interrupted:
            record.write("error.txt", traceback.format_exc().encode())
        failure = {"status": status, "format": RECORD_FORMAT, "error": str(error), **names(config)}
        record.write_json("summary.json", {**failure, "overrides": overrides})
        record.about(status=status, ended=time.time())
    except (OSError, KdrunError):
        pass  # the disk may be the cause of the failure; the caller reports the error itself


def is_done(folder: Path) -> bool:
    """Whether ``folder`` has the summary of a finished run; also one that is damaged, which must not be lost."""
    path = folder / "summary.json"
    try:
        return path.is_file() and files.read_json(path).get("status") == "done"
    except InputError:
        return True
