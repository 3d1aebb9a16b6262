"""The checkpoints of one stage: one while it is trained, one when it is finished."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kdrun.config.values import check_value
from kdrun.errors import ConfigError, InputError
from kdrun.store import files
from kdrun.store.faults import point
from kdrun.store.format import FORMAT
from kdrun.store.model_store import key
from kdrun.store.record import Record, Row
from kdrun.train.loop import COSTS
from kdrun.train.stage import Scores, Stage, State

Journals = Callable[[int, Stage, str], "StageJournal"]
"""Makes the journal of a stage from its number (from 1), the stage, and the sha256 of the stage before it."""

SEALED = {"format": int, "origin": str, "after": str, "rows": str, "modules": dict}
"""What both files of a stage hold, with its type."""
FINISHED = {"epochs": int, "scores": dict}
"""What the file of a finished stage holds besides."""
TRAINING = {"epoch": int, "step": int, "totals": dict, "counts": dict, "scores": dict, "best": dict | None}
"""What the file of a stage in training holds besides, and a resume relies on."""


def journals(record: Record, fields: Mapping[str, Any]) -> Journals:
    """Returns the function that makes the journals of the stages of ``record``.

    Args:
        record: the record of the training.
        fields: everything that the training depends on; a checkpoint of any other training is refused.
    """
    record.origin = origin(fields)
    return partial(StageJournal, record)


def origin(fields: Mapping[str, Any]) -> str:
    """Returns the sha256 of ``fields``, except for the number of epochs: a training may go on with more of them."""
    recipe = {name: value for name, value in fields.get("recipe", {}).items() if name != "epochs"}
    return key({**fields, "recipe": recipe})


class StageJournal:
    """The two checkpoint files of one stage: ``stages/01-hint.last.pt`` during training, ``01-hint.pt`` at its end.

    The file of a finished stage holds the weights of its modules and its scores. Both files are valid only in the same
    training and after the same previous stage, so they record the ``origin`` of the training and that stage's sha256,
    and they hold all rows of the training so far.
    """

    def __init__(self, record: Record, number: int, stage: Stage, after: str) -> None:
        self.record, self.origin, self.stage, self.after = record, record.origin, stage, after
        base = record.folder / "stages" / f"{number:02d}-{stage.name}"
        self.path, self.last = base.with_suffix(".pt"), base.with_suffix(".last.pt")

    def finished(self) -> tuple[Scores, str] | None:
        """Returns the scores and the sha256 of this stage if it is finished already, and loads its weights.

        Returns None if it is not finished, if it followed another stage, or if it now has more epochs.

        Raises:
            InputError: if its file is damaged, of another training, or does not fit the stage.
        """
        if (read := read_state(self.path, self.origin, FINISHED)) is None:
            return None
        state, digest = read
        if state["after"] != self.after or state["epochs"] < self.stage.epochs:
            return None
        self._check_modules(self.path, state["modules"])
        if any(not isinstance(state["scores"].get(cost), int | float) for cost in COSTS):
            raise unfit(self.path, "does not fit this stage (its scores lack the costs)")
        self.stage.modules.load_state_dict(state["modules"])
        self.record.settled = self._rows(self.path, state["rows"])
        self.record.restore(self.record.settled)
        return state["scores"], digest

    def finish(self, scores: Scores) -> str:
        """Saves the stage as finished; returns the sha256 of its file."""
        self.record.settled = list(self.record.rows)
        return self._write(self.path, {"epochs": self.stage.epochs, "scores": scores}, self.stage.modules.state_dict())

    def load(self) -> State | None:
        """Returns the last saved state of this stage; None if there is none, or if it followed another stage.

        Raises:
            InputError: if its file is damaged, of another training or format, or does not fit the stage.
        """
        read = read_state(self.last, self.origin, TRAINING)
        state = read[0] if read and read[0]["after"] == self.after else None
        if state is not None:
            self._check_modules(self.last, state["modules"])
            self._check_modules(self.last, state.get("memory", {}), self.stage.memory)
            if (best := state["best"]) is not None:
                self._check_modules(self.last, best.get("modules"))
        self.record.restore(self._rows(self.last, state["rows"]) if state else self.record.settled)
        return state

    def misfit(self) -> InputError:
        """Returns the error that the last saved state does not fit this stage."""
        return unfit(self.last, "does not fit this stage")

    def save(self, state: State) -> None:
        self._write(self.last, {**state, "deployed": self.stage.deployed}, state["modules"])

    def _write(self, path: Path, state: State, modules: Mapping[str, Tensor]) -> str:
        seals = {"format": FORMAT, "origin": self.origin, "after": self.after, "rows": json.dumps(self.record.rows)}
        return files.save(self.record.destination(path), {**state, **seals, "modules": modules})

    def _check_modules(self, path: Path, modules: Any, expected: nn.Module | None = None) -> None:
        """Refuses weights whose names, shapes or types are not those of the stage: loading would cast types.

        Args:
            path: the file that they are from.
            modules: the weights by name.
            expected: the module that they are for; those of the stage if None.
        """
        modules = modules if isinstance(modules, dict) else {}
        own = {name: form(value) for name, value in (expected or self.stage.modules).state_dict().items()}
        other = {name: form(value) for name, value in modules.items()}
        if different := [name for name in {**own, **other} if own.get(name) != other.get(name)]:
            name = different[0]
            raise unfit(path, f"does not fit this stage ({name} is {other.get(name)}, not {own.get(name)})")

    def _rows(self, path: Path, content: str) -> list[Row]:
        try:
            rows = json.loads(content)
            check_value(rows, list[dict[str, Any]], "rows")
        except (ValueError, RecursionError, ConfigError) as fault:
            raise unfit(path, "does not fit this stage (its rows cannot be read)") from fault
        return list(rows)

    def row(self, values: Row) -> None:
        row = {"time": time.time(), "stage": self.stage.name, **values}
        self.record.row(row)
        self.record.listen(self.record.name, self.stage.name, values["epoch"] / self.stage.epochs, row)

    def tick(self, done: float, epoch: int) -> None:
        point(f"{self.record.name}/{self.stage.name}")
        self.record.listen(self.record.name, self.stage.name, done, {})


def read_state(path: Path, origin: str, kinds: Mapping[str, Any]) -> tuple[State, str] | None:
    """Returns the state of a stage in ``path`` and its sha256; None if there is no such file.

    Args:
        path: the file.
        origin: the ``origin`` of the training that the stage is part of.
        kinds: further entries of the state, and their types.

    Raises:
        InputError: if it is damaged, of another training or format, or lacks an entry.
    """
    if not path.exists():
        return None
    state, digest = files.load(path)
    if (number := state.get("format")) != FORMAT:
        raise InputError(str(path), f"has format {number}, this kdrun reads {FORMAT}; start a new run")
    try:
        for name, kind in {**SEALED, **kinds}.items():
            check_value(state.get(name), kind, name)
    except ConfigError as fault:
        raise unfit(path, f"does not fit this stage ({fault})") from fault
    if state["origin"] != origin:
        what = "is of another training (another seed, data, student, method or teacher)"
        raise InputError(str(path), f"{what}; it is kept: choose another name= for this run")
    return state, digest


def form(value: Any) -> str:
    """Returns the shape and type of a tensor as text, such as ``(3, 2) float32``."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return "no tensor"


def unfit(path: Path, what: str) -> InputError:
    """Returns the error that the checkpoint in ``path`` cannot be used."""
    return InputError(str(path), f"{what}; {files.ANEW}")
