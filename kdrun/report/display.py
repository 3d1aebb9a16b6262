"""The progress of a run: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from kdrun.errors import printable
from kdrun.train.metrics import called

WIDTH = 110
"""Characters per line of a table if the output is not a terminal."""

QUIET_SECONDS = 10.0
"""The least number of seconds between two plain lines of one stage."""


class Screen(Console):
    """A console on which text only stands: the control characters of a name are shown, not obeyed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yields the segments of ``renderable``; what rich itself tells the terminal is not text and stays."""
        for segment in super().render(renderable, options):
            text = segment.text if segment.control else "\n".join(map(printable, segment.text.split("\n")))
            yield segment._replace(text=text)


def console() -> Console:
    """Returns a console for standard output."""
    screen = Screen(highlight=False, emoji=False)
    return screen if screen.is_terminal else Screen(highlight=False, emoji=False, width=WIDTH)


class Display:
    """Shows how far each stage is; use as a context manager."""

    def __init__(self) -> None:
        self.console = console()
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TextColumn("{task.fields[text]}", markup=False),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.tasks: dict[tuple[str, str], TaskID] = {}
        self.noticed = time.monotonic()

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
        """Updates the bar after a step; after a finished epoch, ``row`` is not empty and its scores are shown."""
        task = self.tasks.get((training, stage))
        if task is None:
            task = self.tasks[training, stage] = self.progress.add_task(f"{training}: {stage}", total=1.0, text="")
        self.progress.update(task, completed=done)
        if row:
            self.progress.update(task, text=sentence(row))
            if not self.console.is_terminal and (done >= 1 or time.monotonic() - self.noticed >= QUIET_SECONDS):
                self.notice(f"{training}: {stage} {sentence(row)}")
                self.noticed = time.monotonic()


def sentence(row: dict[str, Any]) -> str:
    """Returns a short text about an epoch: its number, its first score and its seconds."""
    scores = {name.removeprefix("val/"): value for name, value in row.items() if name.startswith("val/")}
    parts = [f"{name} {called(name).text(value)}" for name, value in list(scores.items())[:1]]
    return ", ".join([f"epoch {row['epoch']}", *parts, f"{row['seconds']:.1f} s"])
