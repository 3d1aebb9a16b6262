"""Many command lines in one forked process: for what is refused before anything is trained."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from battery.cases import complaint, conduct
from battery.runner import Outcome, changes, furnish, snapshot, start
from kdrun.cli import main


def many(top: Path, lines: Sequence[Sequence[str]], seconds: float = 600) -> Iterator[Outcome]:
    """Yields the outcome of each of ``lines``; a line that ends or hangs the process has code 71.

    All lines share one process and one box, so that a line costs only what kdrun does.
    """
    if not (top / "box").is_dir():
        furnish(top)
    log = top / "lines.jsonl"

    def all_lines() -> None:
        with log.open("w") as file:
            for argv in lines:
                file.write(json.dumps(one(argv)) + "\n")
                file.flush()
        os._exit(0)

    start(top, ["--version"], patch=all_lines).finish(seconds)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    yield from (Outcome(code, out, err, taken) for code, out, err, taken in rows)
    yield from (Outcome(71, "", "the process ended or hung before or in this line") for _ in lines[len(rows) :])
    log.unlink()


def one(argv: Sequence[str]) -> tuple[int, str, str, float]:
    out, err, began = io.StringIO(), io.StringIO(), time.monotonic()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(argv))
    sys.stdout.flush()
    return code, out.getvalue()[-2000:], err.getvalue()[-4000:], time.monotonic() - began


def refused(
    top: Path, lines: Sequence[Sequence[str]], allowed: tuple[int, ...] = (2,)
) -> Iterator[tuple[str, Outcome]]:
    """Yields what is wrong with the refusal of each line, and its outcome; then whether they wrote anything."""
    if not (top / "box").is_dir():
        furnish(top)
    before = snapshot(top)
    for outcome in many(top, lines):
        slow = f"took {outcome.seconds:.0f} s" if outcome.seconds > 5 else ""
        yield complaint(outcome, allowed) or slow, outcome
    did = conduct(top, Outcome(0, noted=noted(top)), changes(before, snapshot(top)), ())
    yield did, Outcome(0)


def noted(top: Path) -> list[str]:
    lines = [line for path in top.glob("noted*") for line in path.read_text("utf-8", "replace").splitlines()]
    return [line for line in lines if not line.startswith(f"write {top}")]
