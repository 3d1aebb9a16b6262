"""The journal of one stage: how far it is, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from kdrun.errors import InputError
from kdrun.store import files
from kdrun.store.faults import point
from kdrun.store.record import FORMAT, Record, Row
from kdrun.train.stage import Scores, Stage, State

Journals = Callable[[int, Stage, str], "StageJournal"]
"""Gives the journal of a stage: of its number from 1, and of the sha256 of the stage before it."""


def journals(record: Record) -> Journals:
    """Returns what gives the journals of the stages of ``record``."""
    return partial(StageJournal, record)


class StageJournal:
    """One stage's place in a record: ``stages/01-hint.pt`` once finished, ``.last.pt`` beside it on the way.

    A finished stage holds its modules as they stood after it and its scores. Both files are worth something only
    behind the very stage that they followed, so they name that one's sha256.
    """

    def __init__(self, record: Record, number: int, stage: Stage, after: str) -> None:
        self.record, self.stage, self.after = record, stage, after
        base = record.folder / "stages" / f"{number:02d}-{stage.name}"
        self.path, self.last = base.with_suffix(".pt"), base.with_suffix(".last.pt")

    def finished(self) -> tuple[Scores, str] | None:
        """Returns the scores and the sha256 of this stage if it was trained before, its weights put in place.

        None where it was not, where it followed another stage, or where it shall be longer now.
        """
        if not self.path.is_file():
            return None
        state, digest = files.load(self.path)
        if state["after"] != self.after or state["epochs"] < self.stage.epochs:
            return None
        self.stage.modules.load_state_dict(state["modules"])
        self.record.settled = state["rows"]
        return state["scores"], digest

    def finish(self, scores: Scores) -> str:
        """Keeps the stage as finished; returns its sha256."""
        modules = self.stage.modules.state_dict()
        rows = self.record.settled = len(self.record.rows)
        state = {"after": self.after, "epochs": self.stage.epochs, "scores": scores, "modules": modules, "rows": rows}
        return files.save(self.path, state)

    def load(self) -> State | None:
        nothing: State = {"format": FORMAT, "after": None}
        state = files.load(self.last)[0] if self.last.is_file() else nothing
        if state["format"] != FORMAT:
            raise InputError(
                str(self.last), f"has format {state['format']}, this kdrun reads {FORMAT}; start a new run"
            )
        known = state["after"] == self.after
        self.record.rewind(state["rows"] if known else self.record.settled)
        return state if known else None

    def save(self, state: State) -> None:
        files.save(self.last, {**state, "rows": len(self.record.rows), "after": self.after, "format": FORMAT})

    def row(self, values: Row) -> None:
        row = {"time": time.time(), "stage": self.stage.name, **values}
        self.record.row(row)
        self.record.listen(self.record.name, self.stage.name, values["epoch"] / self.stage.epochs, row)

    def tick(self, done: float, epoch: int) -> None:
        point(f"{self.record.name}/{self.stage.name}")
        self.record.listen(self.record.name, self.stage.name, done, {})
