"""Kills of runs, sweeps and workers, then the same command again: the same bits, and nothing left over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from battery.cases import Battery, Trial, complaint
from battery.runner import TINY, furnish, start
from battery.stock import differing
from battery.writing import RUN, goes_on, wait_for

SWEEP = ["train", "-m", *TINY, "method=kd", "baseline=false"]


def cases(battery: Battery) -> Iterator[Trial]:
    firsts = [f"{point}:{count}" for count in (1, 2, 3, 4) for point in ("write", "rename", "written")]
    for plan in firsts[:: battery.some(1, 4)]:
        yield Trial(f"kill at {plan}", planned(battery, f"kill@{plan}"))
    points = [f"{point}:{battery.chance.randint(5, 26)}" for point in ("write", "rename", "written") for _ in range(4)]
    points += [f"{stage}:{battery.chance.randint(1, 6)}" for stage in STAGES for _ in range(3)]
    for plan in points[:: battery.some(1, 8)]:
        yield Trial(f"kill at {plan}", planned(battery, f"kill@{plan}"))
    for number in range(battery.some(10, 1)):
        yield Trial(f"kill after a random time, {number}", timed(battery, battery.chance.uniform(0.1, 0.9)))
    for number in range(battery.some(3, 1)):
        yield Trial(f"two sweeps that share a teacher, killed, round {number}", two_sweeps(battery))
    yield Trial("a sweep by joblib, one worker killed", joblib_worker)


STAGES = (
    "mlp_32 by scratch/distill",
    "mlp_16 by scratch/distill",
    "mlp_16 by fitnets/hint",
    "mlp_16 by fitnets/distill",
)


def planned(battery: Battery, plan: str) -> Callable[[Path], Iterator[tuple[str, str]]]:
    """A run that is killed at a point, then the same command."""

    def run(top: Path) -> Iterator[tuple[str, str]]:
        furnish(top)
        env = {"KDRUN_TESTING": "1", "KDRUN_FAULT": plan, "KDRUN_SAVE_SECONDS": "0"}
        outcome = start(top, RUN, env).finish(60)
        if outcome.code == 0:
            yield "", "skipped: the run does not pass this point so often"
            return
        yield "goes on", goes_on(battery, top, outcome.code)

    return run


def timed(battery: Battery, delay: float) -> Callable[[Path], Iterator[tuple[str, str]]]:
    def run(top: Path) -> Iterator[tuple[str, str]]:
        furnish(top)
        child = start(top, RUN, {"KDRUN_SAVE_SECONDS": "0"})
        time.sleep(delay)
        os.kill(child.pid, signal.SIGKILL)
        code = child.finish(60).code
        yield "goes on", goes_on(battery, top, code) if code else ""

    return run


def two_sweeps(battery: Battery) -> Callable[[Path], Iterator[tuple[str, str]]]:
    """Two sweeps at once, killed several times; each is begun again until it is done."""

    def run(top: Path) -> Iterator[tuple[str, str]]:
        box = furnish(top)
        for round_ in range(3):
            children = [start(top, [*SWEEP, f"name=s{which}{round_}", f"seed={which},{which + 2}"]) for which in (0, 1)]
            wait_for(box, f"o/s0{round_}")
            time.sleep(battery.chance.uniform(0, 0.6))
            for child in children:
                os.kill(child.pid, signal.SIGKILL)
                child.finish(10)
        outcomes = [
            start(top, [*SWEEP, f"name=end{which}", f"seed={which},{which + 2}"]).finish(90) for which in (0, 1)
        ]
        wrong = [why for outcome in outcomes if (why := complaint(outcome, (0,)))]
        yield "the sweeps end", wrong[0] if wrong else ""
        teachers = list((box / "o/models").glob("mlp_32-*/manifest.json"))
        yield "one teacher", "" if len(teachers) == 1 else f"{len(teachers)} teachers"
        honest = top / "honest"
        furnish(honest)
        start(honest, [*SWEEP, "name=end0", "seed=0,2"]).finish(90)
        different = differing(honest / "box/o/end0", box / "o/end0")
        yield "the same bits", f"differs in {different[0]}" if different else ""
        left = [path.name for path in (box / "o/models").rglob("*.tmp")]
        yield "nothing is left over", f"left {left[0]}" if left else ""

    return run


def joblib_worker(top: Path) -> Iterator[tuple[str, str]]:
    """One of two workers is killed: its job is lost, the others are done and stand in the leaderboard."""
    from importlib.metadata import distributions

    if not any(each.name == "hydra-joblib-launcher" for each in distributions()):
        yield "", "skipped: the launcher is not installed (pip install 'kdrun[joblib]')"
        return
    box = furnish(top)
    words = [*SWEEP, "name=j", "seed=0,1,2", "epochs=60", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    child = start(top, words, space=60 << 30)
    wait_for(box, "o/j/1*/metrics.jsonl", 60)
    for victim in workers(child.pid, box / "o/j"):
        os.kill(victim, signal.SIGKILL)
        break
    outcome = child.finish(120)
    yield "one line for the job", complaint(outcome, (1,), lines=3)
    yield "a leaderboard", "" if (box / "o/j/leaderboard.csv").is_file() else "no leaderboard"
    done = len(list((box / "o/j").glob("*/student.safetensors")))
    yield "the other jobs are done", "" if done >= 2 else f"{done} of 3 jobs are done"


def workers(parent: int, folder: Path) -> Iterator[int]:
    """Yields the processes of a sweep that have a file of its jobs open, but not the sweep itself."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            paths = [os.readlink(path) for path in (place / "fd").iterdir()]
        except OSError:
            continue
        if int(place.name) != parent and any(link.startswith(str(folder)) for link in paths):
            yield int(place.name)
