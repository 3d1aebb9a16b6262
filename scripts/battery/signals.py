"""Signals in every phase: the documented exit code, at most one line, soon, and the same bits after a resume."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from battery.cases import Battery, Case, Trial, complaint
from battery.runner import Child, furnish, start
from battery.stock import FITNETS, differing, pictures
from battery.writing import RUN, wait_for

SIGNALS = {"INT": signal.SIGINT, "TERM": signal.SIGTERM, "HUP": signal.SIGHUP}

PHASES = {
    "the teacher trains": "o/models/*/metrics.jsonl",
    "the run begins": "o/run/config.yaml",
    "the teacher is published": "o/models/*/manifest.json",
    "the hint stage": "o/run/stages/01-*",
    "the hint stage is done": "o/run/stages/01-hint.pt",
    "the distill stage": "o/run/stages/02-*",
    "the tests": "o/run/student.safetensors",
    "the figures": "o/run/figures/*.png",
    "the closing": "o/run/summary.json",
}


def cases(battery: Battery) -> Iterator[Case | Trial]:
    names = list(SIGNALS)
    for number, (phase, pattern) in enumerate(PHASES.items()):
        for name in names if not battery.quick else [names[number % 3]]:
            yield Trial(f"{name} when {phase}", at(battery, name, pattern))
    for delay in (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)[:: battery.some(1, 5)]:
        yield Trial(
            f"{battery.chance.choice(names)} after {1000 * delay:.0f} ms",
            after(battery, battery.chance.choice(names), delay),
        )
    for name in names[: battery.some(3, 1)]:
        yield Trial(f"{name} twice in the distill stage", at(battery, name, "o/run/stages/02-*", twice=True))
    for name in names[: battery.some(3, 1)]:
        yield many_images(battery, name)
    for name in names[: battery.some(3, 1)]:
        for dataset in ("mnist", "cifar10", "svhn")[: battery.some(3, 1)]:
            yield Trial(f"{name} while {dataset} is downloaded", download(name, dataset))
    yield Trial("TERM in a sweep", sweep("TERM"))
    yield Trial("INT in a sweep", sweep("INT"))


def ends(name: str) -> tuple[int, ...]:
    """The exit codes that a signal may lead to: 128 + n, or -n where there was nothing to lose, or 0 at the end."""
    return (128 + SIGNALS[name], -SIGNALS[name], 0)


def ended(battery: Battery, top: Path, child: Child, name: str, seconds: float = 30) -> Iterator[tuple[str, str]]:
    """Judges the end of a run after a signal, and that it goes on to the same bits."""
    began = time.monotonic()
    outcome = child.finish(seconds + began - child.began)
    late = time.monotonic() - began
    yield "", complaint(outcome, ends(name)) or (f"{late:.1f} s until the end" if late > 10 else "")
    begun = (top / "box/o/run/run.json").is_file()
    again = start(top, ["train", "resume=o/run"] if begun else RUN).finish(60)
    different = differing(top / "box/o", battery.stock / "whole/o") if not again.code else []
    yield (
        "goes on",
        f"exit code {again.code}: {again.err[-160:]}"
        if again.code
        else f"differs in {different[0]}"
        if different
        else "",
    )


def at(battery: Battery, name: str, pattern: str, twice: bool = False) -> Callable[[Path], Iterator[tuple[str, str]]]:
    """Sends a signal when a path is there."""

    def run(top: Path) -> Iterator[tuple[str, str]]:
        furnish(top)
        child = start(top, RUN, {"KDRUN_SAVE_SECONDS": "0.01"})
        wait_for(top / "box", pattern)
        for _ in range(1 + twice):
            os.kill(child.pid, SIGNALS[name])
            time.sleep(0.005)
        yield from ended(battery, top, child, name)

    return run


def after(battery: Battery, name: str, delay: float) -> Callable[[Path], Iterator[tuple[str, str]]]:
    """Sends a signal after a time: while the config is composed, while the run is rehearsed, at the start."""

    def run(top: Path) -> Iterator[tuple[str, str]]:
        furnish(top)
        child = start(top, RUN)
        time.sleep(delay)
        os.kill(child.pid, SIGNALS[name])
        yield from ended(battery, top, child, name)

    return run


def many_images(battery: Battery, name: str) -> Case:
    """A folder of images that takes a minute to decode, and the signal in the middle."""

    def make(box: Path) -> None:
        pictures(box / "pics", 1, 12)
        Image.linear_gradient("L").resize((4000, 4000)).convert("RGB").save(box / "pics/a/large.png", compress_level=1)
        for number in range(300):
            os.link(box / "pics/a/large.png", box / "pics/b" / f"x{number}.png")

    def drive(child: Child, box: Path) -> None:
        time.sleep(2)
        os.kill(child.pid, SIGNALS[name])

    words = [word for word in FITNETS if not word.startswith("dataset")]
    argv = ["train", "dataset=folder", "dataset.root=pics", "dataset.size=8", *words]
    return Case(
        f"{name} while a folder of images is decoded",
        argv,
        make=make,
        codes=ends(name),
        drive=drive,
        check=lambda box, outcome: "" if outcome.seconds < 2 + SOON else f"{outcome.seconds - 2:.1f} s until the end",
        writes=("o", "o/*"),
        seconds=40,
    )


SOON = 4.0
"""Seconds from a signal to the end, in downloads and decoding: 2 are promised, the machine may be busy."""


def download(name: str, dataset: str) -> Callable[[Path], Iterator[tuple[str, str]]]:
    """Sends a signal while a server is slow to answer."""

    def run(top: Path) -> Iterator[tuple[str, str]]:
        furnish(top)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            if not (server := os.fork()):
                dribble(listener)
        words = [word for word in FITNETS if not word.startswith("dataset")]
        argv = ["train", f"dataset={dataset}", "dataset.root=data", *words]
        child = start(top, argv, {"no_proxy": "*"}, patch=lambda: redirected(port))
        try:
            time.sleep(2.5)
            os.kill(child.pid, SIGNALS[name])
            outcome = child.finish(25)
        finally:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
        if not any("connect" in line for line in outcome.noted):
            yield "", f"no download began: {outcome.err[-160:]}"
            return
        lines = complaint(outcome, ends(name), lines=5)  # torchvision shows its progress
        yield "", lines or ("" if outcome.seconds < 2.5 + SOON else f"{outcome.seconds - 2.5:.1f} s until the end")
        left = [path.name for path in (top / "box").rglob("*") if path.is_file() and path.name != ".download.lock"]
        yield "leaves nothing", f"left {left[0]}" if left else ""

    return run


def dribble(listener: socket.socket) -> None:
    """Answers the first request for ever."""
    open_sockets = []
    while True:
        listener.settimeout(0.2)
        try:
            open_sockets.append(listener.accept()[0])
            open_sockets[-1].sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        except TimeoutError:
            pass
        for each in open_sockets:
            with suppress(OSError):
                each.sendall(b"x")


def redirected(port: int) -> None:
    """Makes every download of the process one from the slow server."""
    import urllib.request

    real = urllib.request.OpenerDirector.open

    def opened(self: Any, fullurl: Any, data: Any = None, *args: Any, **words: Any) -> Any:
        return real(self, f"http://127.0.0.1:{port}/x", data, *args, **words)

    urllib.request.OpenerDirector.open = opened  # type: ignore[method-assign]


def sweep(name: str) -> Callable[[Path], Iterator[tuple[str, str]]]:
    """Sends a signal in the second job of a sweep: its code, and the first job stays as it is."""

    def run(top: Path) -> Iterator[tuple[str, str]]:
        box = furnish(top)
        words = [word for word in FITNETS if word != "name=run"]
        child = start(top, ["train", "-m", *words, "name=s", "seed=0,1,2"])
        wait_for(box, "o/s/1*/metrics.jsonl", 40)
        before = {path.name: path.read_bytes() for path in (box / "o/s").glob("0*/s*.*")}
        os.kill(child.pid, SIGNALS[name])
        outcome = child.finish(60)
        yield (
            "",
            complaint(outcome, ends(name)[:2])
            or ("no leaderboard" if not (box / "o/s/leaderboard.csv").is_file() else ""),
        )
        later = {path.name: path.read_bytes() for path in (box / "o/s").glob("0*/s*.*")}
        yield "keeps what is done", "" if before == later and before else "the first job has changed"
        yield "begins no other job", "" if not list((box / "o/s").glob("2*")) else "a job began after the signal"

    return run
