"""``kdrun report`` over hostile and damaged runs: it says what it can, names what it left out, and stays one line."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from battery import seals
from battery.cases import Battery, Case
from battery.edits import Change, config, fifo, folder, gone, link, text
from battery.folders import DAMAGED
from battery.runner import Outcome

NAMES = (
    "[/red]",
    "[bold]x[/bold]",
    "=1+1",
    "@SUM(1)",
    "+1",
    "-1",
    "<script>alert(1)</script>",
    "\x1b]0;hit\x07",
    "a|b",
    "a\nb",
    "](x)[",
    "`x`",
    "\u202e",
    "${oc.env:HOME}",
    "\t=1",
    '"=1"',
)


def summary(**changes: Any) -> Change:
    """Changes summary.json; ``a__b`` is the key b of a."""

    def change(run: Path) -> None:
        path = run / "summary.json"
        content = json.loads(path.read_text())
        for key, value in changes.items():
            *way, last = key.split("__")
            node = content
            for part in way:
                node = node[part]
            node[last] = value
        path.write_text(json.dumps(content))

    return change


def dropped(*keys: str) -> Change:
    def change(run: Path) -> None:
        path = run / "summary.json"
        content = json.loads(path.read_text())
        for key in keys:
            content.pop(key)
        path.write_text(json.dumps(content))

    return change


SUMMARIES: dict[str, Change] = {
    "summary empty": text("summary.json", ""),
    "summary a list": text("summary.json", "[]"),
    "summary a number": text("summary.json", "3"),
    "summary null": text("summary.json", "null"),
    "summary not UTF-8": text("summary.json", b"\xff"),
    "summary 100,000 deep": text("summary.json", "[" * 100_000 + "]" * 100_000),
    "summary of 5,000 digits": text("summary.json", '{"format": ' + "9" * 5000 + "}"),
    "summary of 50 MB": text("summary.json", '{"x": "' + "y" * 50_000_000 + '"}'),
    "summary a folder": folder("summary.json"),
    "summary a fifo": fifo("summary.json"),
    "summary a link to /dev/zero": link("summary.json", "/dev/zero"),
    "summary missing": gone("summary.json"),
    "without models": dropped("models"),
    "without task": dropped("task"),
    "without status": dropped("status"),
    "without dataset": dropped("dataset"),
    "without seed, method, student": dropped("seed", "method", "student"),
    "without format": dropped("format"),
    "models a list": summary(models=[]),
    "models without student": summary(models={}),
    "models null": summary(models=None),
    "student a number": summary(models__student=3),
    "student without test": summary(models__student={"name": "x"}),
    "task nope": summary(task="nope"),
    "task a list": summary(task=[1]),
    "status a number": summary(status=3),
    "status nope": summary(status="nope"),
    "score NaN": summary(models__student__test__top1=float("nan")),
    "score inf": summary(models__student__test__top1=float("inf")),
    "score 7": summary(models__student__test__top1=7.0),
    "score -1": summary(models__student__test__top1=-1),
    "score text": summary(models__student__test__top1="high"),
    "score null": summary(models__student__test__top1=None),
    "score a list": summary(models__student__test__top1=[1]),
    "score 10^400": text("summary.json", '{"format": 2, "status": "done", "score": 1' + "0" * 400 + "}"),
    "loss of the teacher text": summary(models__teacher__test__loss="x"),
    "parameters text": summary(models__student__parameters="x"),
    "parameters -1": summary(models__student__parameters=-1),
    "flops NaN": summary(models__student__flops=float("nan")),
    "train_seconds text": summary(models__student__train_seconds="x"),
    "train_seconds 10^300": summary(models__student__train_seconds=1e300),
    "stages a list": summary(models__student__stages=[]),
    "epoch text": summary(models__student__epoch="x"),
    "test_images 0": summary(test_images=0),
    "test_images text": summary(test_images="x"),
    "chain a number": summary(chain=3),
    "chain of numbers": summary(chain=[1]),
    "claims a number": summary(claims=3),
    "claims of text": summary(claims={"student": "x"}),
    "claims NaN": summary(claims={"student": float("nan")}),
    "method_metrics a number": summary(method_metrics=3),
    "overrides a number": summary(overrides=3),
    "overrides of numbers": summary(overrides=[1]),
    "seed text": summary(seed="x"),
    "seed a list": summary(seed=[1]),
    "seed 10^30": summary(seed=10**30),
    "method a list": summary(method=["a"]),
    "metrics without epoch": text("metrics.jsonl", '{"stage": "x"}\n'),
    "metrics NaN": text("metrics.jsonl", '{"stage": "distill", "epoch": 1, "time": 1, "seconds": 1, "loss/ce": NaN}\n'),
    "metrics of text": text("metrics.jsonl", '{"stage": "distill", "epoch": "x", "time": "y", "loss/ce": "z"}\n'),
    "metrics with 10^300": text(
        "metrics.jsonl", '{"stage": "distill", "epoch": 1e300, "time": 1, "seconds": 1, "loss/ce": 1e300}\n'
    ),
    "metrics of 100,000 rows": text(
        "metrics.jsonl", '{"stage": "distill", "epoch": 1, "time": 1, "seconds": 1, "loss/ce": 1}\n' * 100_000
    ),
    "config.claims text": config(claims="x"),
    "config.dataset a number": config(dataset=3),
    "config.teacher a list": config(teacher=[1]),
    "config.student.name a list": config(student__name=["a"]),
    "config.fast_dev_run text": config(fast_dev_run="x"),
}


def cases(battery: Battery) -> Iterator[Case]:
    damaged = {name: change for name, change in DAMAGED.items() if name.startswith(("config", "run.json", "metrics"))}
    for name, change in [
        *list(SUMMARIES.items())[:: battery.some(1, 7)],
        *list(damaged.items())[:: battery.some(2, 9)],
    ]:
        yield case(battery, name, change, ["report", "o/run"], (0, 3))
    for name, change in list(SUMMARIES.items())[:: battery.some(3, 20)]:
        yield case(battery, f"one job of two: {name}", first_job(change), ["report", "o/run"], (0,), "sweep", names_it)
    for name in NAMES[:: battery.some(1, 4)]:
        for field in ("student", "method"):
            yield case(
                battery, f"{field} called {name!r}", labelled(field, name), ["report", "o/run"], (0, 3), check=clean
            )
        yield case(battery, f"run folder called {name!r}", moved(name), ["report", "o"], (0, 3), check=clean)
        yield case(
            battery,
            f"override {name!r}",
            summary(overrides=[f"name={name}", name]),
            ["report", "o/run"],
            (0, 3),
            check=clean,
        )
    if seals.is_sealed(battery.stock / "whole/o/run"):
        for name, change in [*SUMMARIES.items(), *damaged.items()][:: battery.some(1, 9)]:
            yield case(battery, f"{name}, sealed again", sealed(change), ["report", "o/run"], (0, 3))
        yield case(
            battery, "another label, sealed again, is taken", sealed(summary(teacher="x")), ["report", "o/run"], (0,)
        )
    yield case(
        battery, "an image in place of report.md", lambda run: (run / "report.md").mkdir(), ["report", "o/run"], (4,)
    )
    yield case(
        battery,
        "report.csv a link outside",
        link("report.csv", "../../../outside/precious.txt"),
        ["report", "o/run"],
        (0, 4),
    )
    yield case(battery, "the run twice", lambda run: None, ["report", "o/run", "o/run"], (0, 2))
    yield case(battery, "1,000 runs", many_runs, ["report", "o"], (0,))


def case(
    battery: Battery,
    name: str,
    change: Change,
    argv: list[str],
    codes: tuple[int, ...],
    lot: str = "whole",
    check: Callable[[Path, Outcome], str] | None = None,
) -> Case:
    def make(box: Path) -> None:
        battery.laid(lot)(box)
        change(box / "o/run")

    written = ("o/run/report*", "o/report*", "o/run/*.png", "o/*.png", "report", "report/*", "o/*/report*")
    return Case(name, argv, make=make, codes=codes, writes=written, seconds=40, megabytes=500, check=check or sound)


def sealed(change: Change) -> Change:
    """Makes all digests right after ``change``."""
    return lambda run: (change(run), seals.seal(run))


def first_job(change: Change) -> Change:
    return lambda sweep: change(sorted(path for path in sweep.iterdir() if path.is_dir())[0])


def labelled(field: str, name: str) -> Change:
    def change(run: Path) -> None:
        summary(**{field: name})(run)
        path = run / "config.yaml"
        content = yaml.safe_load(path.read_text())
        content[field]["name"] = name
        path.write_text(yaml.safe_dump(content))

    return change


def moved(name: str) -> Change:
    return lambda run: run.rename(run.parent / name.replace("/", "\u2215"))


def many_runs(run: Path) -> None:
    for number in range(1000):
        (run.parent / f"r{number}").mkdir()
        (run.parent / f"r{number}/config.yaml").write_text("seed: 0\n")


def tables(box: Path) -> list[Path]:
    return [path for path in box.rglob("report.csv") if path.is_file() and not path.is_symlink()]


def sound(box: Path, outcome: Outcome) -> str:
    """No senseless number stands as a score."""
    text = outcome.out + "".join(path.read_text("utf-8", "replace") for path in tables(box))
    for word in ("nan %", "700.00", "7.0,", "inf %", "-100.00 %"):
        if word in text:
            return f"shows {word}"
    return f"took {outcome.seconds:.0f} s" if outcome.seconds > 20 else ""


def names_it(box: Path, outcome: Outcome) -> str:
    first = sorted(path.name for path in (box / "o/run").iterdir() if path.is_dir())[0]
    words = " ".join(outcome.out.split()) + outcome.err
    compared = [int(row["n"]) for path in tables(box) for row in csv.DictReader(path.read_text().splitlines())]
    left_out = max(compared, default=0) < 2 and first not in words
    return sound(box, outcome) or (f"does not name {first}, which it left out" if left_out else "")


def clean(box: Path, outcome: Outcome) -> str:
    """No cell begins a formula, no page holds a tag, no escape reaches the terminal."""
    for path in tables(box):
        for row in csv.reader(path.read_text("utf-8", "replace").splitlines()):
            if bad := next(
                (cell for cell in row if (cell[:1] in "=@\t\r" and cell) or (cell[:1] in "+-" and not number(cell))),
                None,
            ):
                return f"a cell of report.csv begins {bad[:12]!r}"
    for path in box.rglob("report.md"):
        if path.is_file() and "<script" in path.read_text("utf-8", "replace"):
            return "<script in report.md"
    return sound(box, outcome)


def number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
