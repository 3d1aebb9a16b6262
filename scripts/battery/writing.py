"""Disks that are full, broken or gone, and what else a run needs of its machine: exit 4, one line, nothing lost."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from battery.cases import Battery, Case, Trial, complaint
from battery.failing import failing, limited
from battery.runner import Child, furnish, start
from battery.stock import FITNETS, differing

ERRORS = ("ENOSPC", "EIO", "EDQUOT")
RUN = ["train", *FITNETS]


def cases(battery: Battery) -> Iterator[Case | Trial]:
    numbers = {
        "fsync": (1, 2, 3, 5, 9, 14, 20, 26),
        "replace": (1, 2, 3, 8, 15, 22),
        "mkstemp": (1, 2, 4, 10, 18),
        "mkdir": (1, 2, 3),
    }
    points = [(call, number, error) for call, each in numbers.items() for number in each for error in ERRORS]
    for call, number, error in battery.chance.sample(points, battery.some(36, 3)):
        yield Trial(f"{call} number {number} fails with {error}", broken(battery, failing(call, number, error)))
    for call, number, error in (("fsync", 4, "EIO"), ("replace", 6, "EIO"), ("fsync", 11, "ENOSPC")):
        yield Trial(
            f"{call} number {number} fails once with {error}", broken(battery, failing(call, number, error, False))
        )
    for error in ("ENOSYS", "ENOLCK", "EOPNOTSUPP", "EIO")[: battery.some(4, 1)]:
        yield Trial(f"flock fails with {error}", broken(battery, failing("flock", 1, error), (0, 4)))
    for size in (4, 8, 16, 24, 64, 150, 250, 400, 500, 600, 1000)[:: battery.some(1, 6)]:
        yield Trial(f"a disk of {size} kB", small_disk(battery, size))
    for size in (200, 2000, 20000)[: battery.some(3, 1)]:
        yield Trial(f"no file above {size} bytes", broken(battery, limited(resource.RLIMIT_FSIZE, size), (1, 4)))
    for count in (8, 12, 16, 24)[: battery.some(4, 1)]:
        yield Trial(
            f"{count} open files at most", broken(battery, limited(resource.RLIMIT_NOFILE, count), (0, 1, 3, 4))
        )
    for megabytes in (30, 60, 100, 150, 250)[: battery.some(5, 1)]:
        yield Trial(f"{megabytes} MB more of memory", broken(battery, None, (0, 1, 4), megabytes << 20))
    yield from places(battery)


def broken(
    battery: Battery, patch: Callable[[], None] | None, codes: tuple[int, ...] = (0, 4), space: int = 6 << 30
) -> Callable[[Path], Iterator[tuple[str, str]]]:
    """A run on a failing machine, then the same command on a whole one: the same bits, and nothing left over."""

    def run(top: Path) -> Iterator[tuple[str, str]]:
        furnish(top)
        outcome = start(top, RUN, patch=patch, space=space).finish(40)
        yield "", "endless: killed after 40 s" if outcome.timed_out else complaint(outcome, codes)
        yield "goes on", goes_on(battery, top, outcome.code)

    return run


def goes_on(battery: Battery, top: Path, code: int) -> str:
    """Runs the command again, or resumes the run; returns what is not as in an undisturbed run."""
    again = start(top, RUN).finish(60)
    if again.code == 2 and (top / "box/o/run/config.yaml").is_file():
        again = start(top, ["train", "resume=o/run"]).finish(60)
    if again.code:
        return f"exit code {again.code}: {again.err.strip()[-160:]}"
    left = [path.name for path in (top / "box").rglob("*.tmp")]
    if left:
        return f"left {left[0]}"
    different = differing(top / "box/o", battery.stock / "whole/o")
    return f"differs in {', '.join(different[:3])}" if different else ""


def small_disk(battery: Battery, size: int) -> Callable[[Path], Iterator[tuple[str, str]]]:
    """A run whose folder ``o`` is a small disk, which then grows."""

    def run(top: Path) -> Iterator[tuple[str, str]]:
        disk = furnish(top) / "o"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]
        if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
            yield "", "skipped: no right to mount a disk here"
            return
        try:
            outcome = start(top, RUN).finish(40)
            yield (
                "",
                "endless: killed after 40 s"
                if outcome.timed_out
                else complaint(outcome, (4,) if size < 400 else (0, 4)),
            )
            subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
            yield "goes on", goes_on(battery, top, outcome.code)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=False)

    return run


def wait_for(box: Path, pattern: str, seconds: float = 20.0) -> None:
    """Waits until a path that fits ``pattern`` is there."""
    end = time.monotonic() + seconds
    while not any(box.glob(pattern)) and time.monotonic() < end:
        time.sleep(0.005)


def removed(pattern: str, what: str) -> Callable[[Child, Path], None]:
    def drive(child: Child, box: Path) -> None:
        wait_for(box, pattern)
        if (box / what).is_dir():
            shutil.rmtree(box / what, ignore_errors=True)

    return drive


def moved(pattern: str) -> Callable[[Child, Path], None]:
    def drive(child: Child, box: Path) -> None:
        wait_for(box, pattern)
        (box / "o").rename(box / "moved")

    return drive


LONG = ["train", *[word for word in FITNETS if not word.startswith("epochs=")], "epochs=400"]


def places(battery: Battery) -> Iterator[Case]:
    """Folders that cannot be written to, that vanish, and streams that are closed."""

    def a_file(box: Path) -> None:
        (box / "o").write_text("x")

    def a_link(box: Path) -> None:
        (box / "o").symlink_to("nowhere/else")

    def a_loop(box: Path) -> None:
        (box / "o").symlink_to("o")

    def no_tmp(box: Path) -> None:
        shutil.rmtree(box.parent / "tmp")

    everything = ("o", "o/*", "moved", "moved/*")
    fast = {"codes": (4,), "names": ("out", "o"), "writes": everything}
    yield Case("out is a file", RUN, make=a_file, **fast)
    yield Case("out is a link to nowhere", RUN, make=a_link, codes=(0, 4), writes=(*everything, "nowhere*"))
    yield Case("out is a loop of links", RUN, make=a_loop, **fast)
    for place in ("/dev/null/x", "/proc/x", "/sys/x", "/dev/full"):
        yield Case(f"out={place}", [*RUN, f"out={place}"], **fast)
    yield Case("out has 5,000 letters", [*RUN, "out=" + "x" * 5000], codes=(2, 4), names=("out",))
    yield Case("out has a part of 300 letters", [*RUN, "out=a/" + "x" * 300], codes=(2, 4), writes=("a",))
    yield Case("out is not UTF-8", [*RUN, "out=x\udcff"], codes=(0, 2, 4), names=("out",), writes=("*",))
    yield Case("no folder for temporary files", RUN, make=no_tmp, codes=(0, 4), writes=everything)
    yield Case(
        "the run folder is removed while it trains",
        LONG,
        codes=(4,),
        drive=removed("o/run/metrics.jsonl", "o/run"),
        writes=everything,
    )
    yield Case(
        "the run folder is removed at once",
        LONG,
        codes=(4,),
        drive=removed("o/run/run.json", "o/run"),
        writes=everything,
    )
    yield Case(
        "all outputs are removed while it trains",
        LONG,
        codes=(4,),
        drive=removed("o/run/metrics.jsonl", "o"),
        writes=everything,
    )
    yield Case(
        "the store is removed while the student trains",
        LONG,
        codes=(0, 4),
        drive=removed("o/run/metrics.jsonl", "o/models"),
        writes=everything,
    )
    yield Case(
        "the outputs are moved while it trains",
        LONG,
        codes=(4,),
        drive=moved("o/run/metrics.jsonl"),
        writes=everything,
        check=no_half,
    )
    yield Case(
        "the outputs are moved while the teacher trains",
        LONG,
        codes=(4,),
        drive=moved("o/models/*/metrics.jsonl"),
        writes=everything,
        check=no_half,
    )
    yield Case("standard output is a full disk", RUN, codes=(0, 4), stdout="/dev/full", writes=everything)
    yield Case("standard output is a full disk: ls", ["ls"], codes=(0, 4), stdout="/dev/full")
    yield Case(
        "standard output is a full disk: report",
        ["report", "o"],
        codes=(0, 4),
        make=battery.laid("whole"),
        stdout="/dev/full",
        writes=everything,
    )
    yield Case(
        "report into a file", ["report", "o", "--out", "o/run/config.yaml"], codes=(4,), make=battery.laid("whole")
    )
    yield Case(
        "report onto a broken disk",
        ["report", "o"],
        codes=(4,),
        make=battery.laid("whole"),
        patch=failing("fsync", 1, "ENOSPC"),
        writes=everything,
    )
    yield Case(
        "resume on a broken disk",
        ["train", "resume=o/run"],
        codes=(4,),
        make=battery.laid("stopped"),
        patch=failing("fsync", 1, "ENOSPC"),
        writes=everything,
    )


def no_half(box: Path, outcome: object) -> str:
    return "a half folder at the old place" if any((box / "o").rglob("*.*")) else ""
