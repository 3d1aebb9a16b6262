"""Reads the folders of runs: here, and only here, what a folder holds becomes checked plain values."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from kdrun.config.root import Root, Teacher
from kdrun.config.values import Pattern, check_value
from kdrun.errors import ConfigError, InputError, KdrunError
from kdrun.report.lines import Config, Run
from kdrun.store import files, run_folder
from kdrun.store.format import RECORD_FORMAT, check_format
from kdrun.store.record import read_rows
from kdrun.train.metrics import TASKS, interval

Fields = dict[str, Any]

SUMMARY_BYTES = 8 << 20
"""Largest summary.json that is read: one has some kilobytes."""
ROWS_BYTES = 64 << 20
"""Largest metrics.jsonl that is read: that of a hundred thousand epochs."""

Label = Annotated[str, Pattern(r"(?s).{1,200}", "is no name (1 to 200 characters)")]
Text = Annotated[str, Pattern(r"(?s).{0,4096}", "is too long (at most 4096 characters)")]
Key = Annotated[str, Pattern(r"[0-9a-f]{64}", "is no sha256 in hex")]
Seconds = Annotated[float, "[0, 1e12]"]
Count = Annotated[int, "[0, 1e18]"]
Epoch = Annotated[int, "[1, 100000]"]
COSTS = {"train_seconds": Seconds | None, "teacher_images": Count | None, "teacher_images_run": Count | None}
ROLES = ("teacher", "baseline", "student")
READ = (
    "dataset", "teacher", "student", "method", "optimizer", "schedule", "experiment", "seed", "epochs", "batch_size",
    "precision", "fast_dev_run", "out",
)  # fmt: skip
"""The keys of a recorded config on which a report depends."""


def entry(folder: Path) -> Run | str:
    """Returns the finished run in ``folder``, or one line about why it cannot be compared."""
    try:
        summary = read_summary(folder)
        if summary["status"] != "done":
            return f"{folder}: {summary['status']} {' '.join(str(summary.get('error', '')).split())}".rstrip()[:1000]
        path = folder / "config.yaml"
        config = read_config(path, summary["task"])
        if config["fast_dev_run"]:
            return f"{folder}: a quick run (fast_dev_run=true), which measures nothing"
        return Run(folder, config, summary)
    except KdrunError as fault:
        return str(fault)


def read_summary(folder: Path, *, of_any_format: bool = False) -> Fields:
    """Returns the content of summary.json; its fields are checked if the run is done.

    Args:
        folder: the folder of the run.
        of_any_format: whether to take a record of another format too, as for a job that has just ended.

    Raises:
        InputError: naming the file and the field, if it cannot be read or says what cannot be.
    """
    path = folder / "summary.json"
    if not os.path.lexists(path):
        return {"status": "not finished"}
    check_file(path, SUMMARY_BYTES)
    try:
        summary = files.read_json(path)
    except (RecursionError, ValueError) as fault:
        raise InputError(str(path), "cannot be read as JSON") from fault
    if not isinstance(summary, dict):
        raise InputError(str(path), "is no object with fields")
    if not of_any_format and (number := summary.get("format", 1)) != RECORD_FORMAT:
        check_format(folder, {"format": str(number)[:20]})
    try:
        check_value(summary.get("status"), Text, "status")
        return summary if summary["status"] != "done" else checked_summary(summary)
    except ConfigError as fault:
        raise InputError(str(path), str(fault)) from fault


def checked_summary(summary: Fields) -> Fields:
    """Returns the ``summary`` of a finished run with the models that a report knows.

    Raises:
        ConfigError: naming the field that is missing, of another type or out of its range.
    """
    task = required(summary, "task", Text)
    if task not in TASKS:
        raise ConfigError("task", f"{task!r} is not one of {', '.join(TASKS)}")
    models = required(summary, "models", dict)
    required(models, "student", dict, "models.")
    known = {role: models[role] for role in ROLES if role in models}
    rows = {role: checked_model(row, f"models.{role}.", task) for role, row in known.items()}
    chain = summary.get("chain", [])
    check_value(chain, list[dict[str, Any]], "chain")
    others = [checked_link(link, f"chain[{place}].") for place, link in enumerate(chain)]
    check_numbers(summary.get("method_metrics", {}), "method_metrics", or_null=True)
    check_value(summary.get("overrides", []), list[Text], "overrides")
    return {**summary, "models": rows, "chain": others, "overrides": summary.get("overrides", [])}


def checked_model(content: Any, where: str, task: str) -> Fields:
    """Returns the row of a model with its name, test scores and costs; a cost that it lacks is None."""
    check_value(content, dict, where.rstrip("."))
    required(content, "name", Label, where)
    test = required(content, "test", dict, where)
    for score in TASKS[task]:
        required(test, score.name, float, f"{where}test.")
    check_numbers(test, f"{where}test")
    row: Fields = {**dict.fromkeys(COSTS), "key": None, "stages": {}, **content}
    for name, kind in (("parameters", Count), ("flops", Count), ("key", Key | None), *COSTS.items()):
        required(row, name, kind, where)
    check_value(row["stages"], dict, f"{where}stages")
    for name, seconds in row["stages"].items():
        check_value(seconds, Seconds, f"{where}stages.{name}")
    return row


def checked_link(link: Fields, where: str) -> Fields:
    """Returns a further model of a run, with its name and costs."""
    required(link, "name", Label, where)
    for name, kind in COSTS.items():
        required(link, name, kind, where)
        if link[name] is None:
            raise ConfigError(f"{where}{name}", "null is not a number")
    return link


def check_numbers(scores: Any, where: str, or_null: bool = False) -> None:
    """Checks that ``scores`` are numbers by name, each in the interval of its kind."""
    check_value(scores, dict, where)
    for name, value in scores.items():
        check_value(name, Label, where)
        if value is not None or not or_null:
            check_value(value, Annotated[float, interval(name)], f"{where}.{name}")


def read_config(path: Path, task: str) -> Config:
    """Returns the recorded config, with the keys and names that a report reads.

    Raises:
        ConfigError: naming the file and the key.
    """
    config = run_folder.read_config(path.parent)
    try:
        hints = get_type_hints(Root, include_extras=True)
        for key in READ:
            required(config, key, hints[key])
        for group in ("dataset", "method"):
            required(config[group], "name", Label, f"{group}.")
        if config["teacher"] is not None:
            hints = get_type_hints(Teacher, include_extras=True)
            for key in ("seed", "checkpoint", "recipe"):
                required(config["teacher"], key, hints[key], "teacher.")
        check_claims(config.get("claims"), "claims", task)
    except ConfigError as fault:
        raise ConfigError(str(path), str(fault)) from fault
    return config


def check_claims(claims: Any, where: str, task: str) -> None:
    """Checks that the numbers in ``claims`` could be scores; words are no claims and stay."""
    if isinstance(claims, dict):
        for name, claim in claims.items():
            check_claims(claim, f"{where}.{name}", task)
        if "implausible" in claims:
            check_value(claims["implausible"], Text, f"{where}.implausible")
    elif isinstance(claims, float | int) and not isinstance(claims, bool):
        check_value(claims, Annotated[float, TASKS[task][0].interval], where)


def required(values: Fields, key: str, kind: Any, where: str = "") -> Any:
    """Returns the value of ``key``, checked against the annotation ``kind``.

    Raises:
        ConfigError: naming ``where`` and the key, if it is missing or the annotation does not allow it.
    """
    if key not in values:
        raise ConfigError(f"{where}{key}", "missing")
    check_value(values[key], kind, f"{where}{key}")
    return values[key]


def metrics_rows(path: Path) -> list[Fields]:
    """Returns the rows of a metrics.jsonl for a figure; an empty list if there is no such file.

    Raises:
        InputError: naming the file, and the row where it is known, if it cannot be read or holds something else.
    """
    if os.path.lexists(path):
        check_file(path, ROWS_BYTES)
    try:
        rows = read_rows(path)
    except (RecursionError, ValueError) as fault:
        raise InputError(str(path), "cannot be read as lines of JSON") from fault
    for place, row in enumerate(rows, start=1):
        try:
            check_row(row)
        except ConfigError as fault:
            raise InputError(str(path), f"row {place}: {fault}") from fault
    return rows


def check_row(row: Any) -> None:
    """Checks the fields of an epoch's row that a figure shows."""
    check_value(row, dict, "row")
    required(row, "stage", Text)
    required(row, "epoch", Epoch)
    for name, value in row.items():
        if name.startswith(("loss/", "val/")):
            check_value(value, Annotated[float, interval(name) if name.startswith("val/") else interval("")], name)


def check_file(path: Path, most: int) -> None:
    """Refuses what is no regular file or larger than ``most`` bytes, before it is opened: a pipe would be waited for.

    Raises:
        InputError: naming the file.
    """
    try:
        state = path.stat()
    except OSError as fault:
        raise InputError(str(path), f"cannot be read ({fault.strerror})") from fault
    if not stat.S_ISREG(state.st_mode):
        raise InputError(str(path), "is not a file")
    if state.st_size > most:
        raise InputError(str(path), f"has {state.st_size} bytes, too many; at most {most} are read")


DEPTH = 2
"""A folder of sweeps holds sweeps, and these hold runs."""


class Walk:
    """Finds the folders of runs, each once; ``others`` holds one line about each folder that was not entered."""

    def __init__(self) -> None:
        self.others: list[str] = []
        self.seen: set[tuple[int, int]] = set()

    def runs(self, folder: Path) -> list[Path]:
        """Returns ``folder`` if it is the folder of a run, else the runs in it and in its sweeps."""
        return files.numbered(self._runs(folder, DEPTH))

    def _runs(self, folder: Path, depth: int) -> Iterator[Path]:
        if not self._is_first(folder):
            return
        if is_run(folder):
            yield folder
        elif depth:
            for inside in self._folders(folder):
                if not inside.is_symlink() or is_run(inside):
                    yield from self._runs(inside, depth - 1)
                else:
                    self.others.append(f"{inside}: is a link, which is followed only to a run; name it itself")

    def _is_first(self, folder: Path) -> bool:
        try:
            state = folder.stat()
        except OSError:
            return False
        known = (state.st_dev, state.st_ino) in self.seen
        self.seen.add((state.st_dev, state.st_ino))
        return not known

    def _folders(self, folder: Path) -> list[Path]:
        try:
            with os.scandir(folder) as entries:
                return [Path(inside.path) for inside in entries if os.path.isdir(inside.path)]
        except OSError as fault:
            self.others.append(f"{folder}: cannot be read ({fault.strerror})")
            return []


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is that of a run: it has the config or the summary of one, also a damaged one."""
    return any(os.path.lexists(folder / name) for name in ("config.yaml", "summary.json"))
