"""The checkpoints of one stage: one while it is trained, one when it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from kdrun.errors import InputError
from kdrun.store import files
from kdrun.store.faults import point
from kdrun.store.format import FORMAT
from kdrun.store.record import Record, Row
from kdrun.train.stage import Scores, Stage, State

Journals = Callable[[int, Stage, str], "StageJournal"]
"""Makes the journal of a stage from its number (from 1), the stage, and the sha256 of the stage before it."""


def journals(record: Record) -> Journals:
    """Returns the function that makes the journals of the stages of ``record``."""
    return partial(StageJournal, record)


class StageJournal:
    """The two checkpoint files of one stage: ``stages/01-hint.last.pt`` during training, ``01-hint.pt`` at its end.

    The file of a finished stage holds the weights of its modules and its scores. Both files are valid only after the
    same previous stage, so they record its sha256.
    """

    def __init__(self, record: Record, number: int, stage: Stage, after: str) -> None:
        self.record, self.stage, self.after = record, stage, after
        base = record.folder / "stages" / f"{number:02d}-{stage.name}"
        self.path, self.last = base.with_suffix(".pt"), base.with_suffix(".last.pt")

    def finished(self) -> tuple[Scores, str] | None:
        """Returns the scores and the sha256 of this stage if it is finished already, and loads its weights.

        Returns None if it is not finished, if it followed another stage, or if it now has more epochs.
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
        """Saves the stage as finished; returns the sha256 of its file."""
        modules = self.stage.modules.state_dict()
        rows = self.record.settled = len(self.record.rows)
        state = {"after": self.after, "epochs": self.stage.epochs, "scores": scores, "modules": modules, "rows": rows}
        return files.save(self.path, state)

    def load(self) -> State | None:
        beginning: State = {"format": FORMAT, "after": None}
        state = files.load(self.last)[0] if self.last.is_file() else beginning
        if state["format"] != FORMAT:
            raise InputError(
                str(self.last), f"has format {state['format']}, this kdrun reads {FORMAT}; start a new run"
            )
        known = state["after"] == self.after
        self.record.rewind(state["rows"] if known else self.record.settled)
        return state if known else None

    def save(self, state: State) -> None:
        about = {"format": FORMAT, "deployed": self.stage.deployed}
        files.save(self.last, {**state, "rows": len(self.record.rows), "after": self.after, **about})

    def row(self, values: Row) -> None:
        row = {"time": time.time(), "stage": self.stage.name, **values}
        self.record.row(row)
        self.record.listen(self.record.name, self.stage.name, values["epoch"] / self.stage.epochs, row)

    def tick(self, done: float, epoch: int) -> None:
        point(f"{self.record.name}/{self.stage.name}")
        self.record.listen(self.record.name, self.stage.name, done, {})
