"""What a run says while it works: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from kdrun.train.metrics import called

WIDTH = 110
"""Columns of a table where there is no terminal to fit it to."""

QUIET_SECONDS = 10.0
"""Between two plain lines of one stage."""


def console() -> Console:
    """Returns the console of standard output."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


class Display:
    """Shows how far each stage is; use as a context manager."""

    def __init__(self) -> None:
        self.console = console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.tasks: dict[tuple[str, str], TaskID] = {}
        self.told = time.monotonic()

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def notice(self, line: str) -> None:
        """Shows a line above the bars."""
        self.console.print(line, markup=False, soft_wrap=True)

    def listen(self, training: str, stage: str, done: float, row: dict[str, Any]) -> None:
        """Hears of a step, or of a finished epoch where ``row`` is not empty."""
        task = self.tasks.get((training, stage))
        if task is None:
            task = self.tasks[training, stage] = self.progress.add_task(f"{training}: {stage}", total=1.0, text="")
        self.progress.update(task, completed=done)
        if row:
            self.progress.update(task, text=sentence(row))
            if not self.console.is_terminal and (done >= 1 or time.monotonic() - self.told >= QUIET_SECONDS):
                self.notice(f"{training}: {stage} {sentence(row)}")
                self.told = time.monotonic()


def sentence(row: dict[str, Any]) -> str:
    """Returns an epoch's row as a few words."""
    scores = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
    said = [f"{name} {called(name).text(value)}" for name, value in list(scores.items())[:1]]
    return ", ".join([f"epoch {row['epoch']}", *said, f"{row['seconds']:.1f} s"])
