"""One run, from its config to its closing table."""

from __future__ import annotations

import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.data.splits import Data
from kdrun.errors import Interrupted, KdrunError, TrainingError
from kdrun.methods.base import Method
from kdrun.models.loading import lasting
from kdrun.report.closing import closing, closing_line
from kdrun.report.display import Display
from kdrun.report.illustrate import draw_curves, illustrate
from kdrun.report.plan import show_plan
from kdrun.report.results import Results, results
from kdrun.run import assembly
from kdrun.run.assembly import Config
from kdrun.store import files, weights
from kdrun.store.checkpoint import journals
from kdrun.store.model_store import differences
from kdrun.store.record import Record, versions
from kdrun.train.runtime import Interrupt, Runtime
from kdrun.train.stage import Scores

Summary = dict[str, Any]

BRIEF = 256
"""Images to select by, and as many to report, of a run that is only tried."""


def run(config: Config, folder: Path, overrides: list[str], *, brief: bool = False) -> Summary:
    """Trains what ``config`` describes, or goes on with it where ``folder`` holds a part, and reports.

    Args:
        config: the whole config, plain and resolved.
        folder: the run folder; nothing is written before everything has been built and rehearsed.
        overrides: as given on the command line; only recorded.
        brief: whether to close with a line instead of a table, as a job of a sweep does.

    Returns:
        What stands in the folder's summary.json; ``score`` is the task's first score on the test split.

    Raises:
        KdrunError: any of its kinds. Where training had begun, the folder says so; a traceback is in its error.txt.
    """
    with Display() as display, Interrupt() as interrupt:
        try:
            summary = perform(config, folder, overrides, display, interrupt)
            interrupt.check("the end")  # a sweep must not go on with its next job
        except BaseException as error:
            if isinstance(error, Interrupted) and (folder / "config.yaml").is_file():
                display.notice(f"what was trained is saved; go on with: kdrun train resume={folder}")
            if isinstance(error, torch.OutOfMemoryError):
                raise TrainingError("batch_size", f"{config['batch_size']} needs more memory than there is") from error
            raise
    if summary["status"] == "done":
        (closing_line if brief else closing)(display.console, summary, folder)
    return summary


def perform(config: Config, folder: Path, overrides: list[str], display: Display, interrupt: Interrupt) -> Summary:
    """Builds and rehearses, reads the data, trains, tests."""
    runtime = Runtime.of(config, interrupt)
    mock, teacher, sketches = assembly.tried(config, runtime, display.listen, display.notice)
    if config["dry_run"]:
        show_plan(display.console, mock, assembly.models(mock, teacher), sketches)
        return {"status": "dry run"}
    data = Data.read(mock.data.source)
    if config["fast_dev_run"]:
        data = data.brief(BRIEF)
    data = data.to(runtime.device)
    assembly.check_batches(config, data)
    for note in data.notes:
        display.notice(f"dataset {config['dataset']['name']}: {note}")
    record = Record(folder, f"{config['student']['name']} by {config['method']['name']}", display.listen)
    try:
        exp = assembly.assemble(config, data, runtime, display.listen, display.notice)
        return train(exp, config, teacher, record, overrides)
    except BaseException as error:
        note_failure(record, config, overrides, error)
        raise
    finally:
        record.close()


def train(exp: Experiment, config: Config, teacher: Config | None, record: Record, overrides: list[str]) -> Summary:
    """Trains the teacher, the student alone and the student, each where it is not there yet, and tests them."""
    if odd := differences(exp.runtime.environment(), record.facts.get("environment", {})):
        exp.notice(f"the run was begun otherwise: {odd}; its last bits may differ from those of an unbroken one")
    record.config({**config, "resume": None})
    began = {"status": "running", "started": time.time(), "overrides": overrides, "versions": versions()}
    record.about(**began, environment=exp.runtime.environment())
    exp = assembly.teach(exp, teacher)
    if exp.teacher:
        told = {"name": exp.teacher.name, "key": exp.teacher.key, "val": exp.teacher.scores}
        record.about(teacher=told)
    alone = assembly.alone(exp, config)
    if alone and assembly.is_alone(exp, config):
        scores = adopt(exp, alone, record)
        method = None
    else:
        method = exp.method(config["method"])
        scores = exp.follow(method, journals(record))
    return conclude(exp, config, method, alone, scores, record, overrides)


def conclude(
    exp: Experiment,
    config: Config,
    method: Method | None,
    alone: Trained | None,
    scores: Scores,
    record: Record,
    overrides: list[str],
) -> Summary:
    """Tests the trained models, keeps the student, and completes the record.

    Args:
        exp: its student trained.
        config: what stands in the record; only its names are used.
        method: by which it was trained; None where its training was adopted.
        alone: the same student trained alone.
        scores: of the student on the validation split.
        record: of the run.
        overrides: as given on the command line.
    """
    weights.write(record.folder / "student.safetensors", exp.student.model)
    write_last(exp, record)
    found = results(exp, config["student"]["name"], alone, scores)
    summary = summarize(config, exp, found, overrides)
    halt = partial(exp.runtime.interrupt.check, "tests and figures")
    halt()
    if method:
        summary["findings"] = method.findings(exp)
        for name, figure in method.figures(exp):
            halt()
            record.figure(name, figure)
    halt()
    illustrate(record, exp, config, found, summary)
    draw_curves(record, exp, alone, summary)
    files.write_json(record.folder / "summary.json", summary)
    record.about(status="done", ended=time.time())
    return summary


def adopt(exp: Experiment, alone: Trained, record: Record) -> Scores:
    """Makes the run's student the one that was trained alone, which is the very same training, and takes its rows."""
    assert alone.folder is not None
    exp.student.load_state_dict(alone.model.state_dict())
    record.adopt(alone.folder)
    return alone.scores


def write_last(exp: Experiment, record: Record) -> None:
    """Keeps the student as it was after the last epoch, beside the best."""
    states = sorted(record.folder.glob("stages/*.last.pt"))
    if states:
        modules = files.load(states[-1])[0]["modules"]
        prefix = "student.model."
        last = {name.removeprefix(prefix): value for name, value in modules.items() if name.startswith(prefix)}
        kept = lasting(exp.student.model, last)
        weights.write_state(record.folder / "student-last.safetensors", kept)


def summarize(config: Config, exp: Experiment, found: Results, overrides: list[str]) -> Summary:
    """Returns the run in figures, all of it measured."""
    names = {group: (config[group] or {}).get("name") for group in ("dataset", "teacher", "student", "method")}
    return {
        "status": "done",
        "task": exp.data.source.task,
        "score": found.models["student"]["test"][exp.main.name],
        **names,
        "seed": config["seed"],
        "test_images": found.count,
        "models": found.models,
        "links": found.links,
        "overrides": overrides,
        "claims": config.get("claims"),
    }


def note_failure(record: Record, config: Config, overrides: list[str], error: BaseException) -> None:
    """Writes into the run folder why the run ended; the folder stays fit to be resumed."""
    interrupted = isinstance(error, (Interrupted, KeyboardInterrupt))
    status = "interrupted" if interrupted else "failed"
    try:
        if not interrupted:
            files.write(record.folder / "error.txt", traceback.format_exc().encode())
        named = {group: (config[group] or {}).get("name") for group in ("dataset", "teacher", "student", "method")}
        failure = {"status": status, "error": str(error), **named, "seed": config["seed"], "overrides": overrides}
        files.write_json(record.folder / "summary.json", failure)
        record.about(status=status, ended=time.time())
    except (OSError, KdrunError):
        pass  # the disk may be what failed; the error itself is on its way to the user
