"""Several processes at once: one teacher is trained once, one name belongs to one run, one folder to one process."""

from __future__ import annotations

import importlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from battery.cases import Battery, Trial, complaint
from battery.runner import TINY, Child, Outcome, furnish, start
from battery.writing import wait_for

LONG = [word for word in TINY if not word.startswith("teacher.recipe.epochs")] + [
    "teacher.recipe.epochs=30",
    "baseline=false",
]


def cases(battery: Battery) -> Iterator[Trial]:
    for number in range(battery.some(3, 1)):
        yield Trial(f"8 processes, one teacher, 2 holders killed, round {number}", one_teacher(battery))
    for number in range(battery.some(4, 1)):
        yield Trial(f"4 processes, one name, round {number}", one_name)
    yield Trial("a second run of a name that checked it before the first began", late_second)
    yield Trial("resume of a run that is going on", resume_of_running)
    yield Trial("two resumes of one run at once", two_resumes(battery))
    yield Trial("two sweeps of one name at once", two_sweeps)
    yield Trial("report while a run goes on", report_meanwhile)


def one_teacher(battery: Battery) -> Callable[[Path], Iterator[tuple[str, str]]]:
    def run(top: Path) -> Iterator[tuple[str, str]]:
        box = furnish(top)
        children = [start(top, ["train", *LONG, "method=kd", f"seed={seed}", f"name=r{seed}"]) for seed in range(8)]
        for _ in range(2):
            wait_for(box, "o/models/*/metrics.jsonl")
            time.sleep(battery.chance.uniform(0.05, 0.4))
            if holder := next((child for child in children if holds(child)), None):
                os.kill(holder.pid, signal.SIGKILL)
        outcomes = [child.finish(120) for child in children]
        ended = [outcome for outcome in outcomes if outcome.code != -9]
        wrong = [why for outcome in ended if (why := complaint(outcome, (0,)))]
        yield "all others end", wrong[0] if wrong else ""
        teachers = list((box / "o/models").glob("mlp_32-*/manifest.json"))
        yield "one teacher", "" if len(teachers) == 1 else f"{len(teachers)} teachers"
        keys = {
            json.loads(path.read_text())["teacher"]["key"]
            for path in (box / "o").glob("r*/run.json")
            if (path.parent / "summary.json").is_file()
        }
        yield "all had it", "" if len(keys) == 1 else f"{len(keys)} keys"
        rows = [
            json.loads(line)
            for path in (box / "o/models").glob("mlp_32-*/metrics.jsonl")
            for line in path.read_text().splitlines()
        ]
        epochs = [row["epoch"] for row in rows]
        yield "each epoch once", "" if epochs == list(range(1, 31)) else f"epochs {epochs}"

    return run


def holds(child: Child) -> bool:
    """Whether a process has files of the teacher open: it trains it."""
    try:
        paths = [os.readlink(path) for path in Path(f"/proc/{child.pid}/fd").iterdir()]
    except OSError:
        return False
    return any("/models/" in link and "tfevents" in link for link in paths)


def one_name(top: Path) -> Iterator[tuple[str, str]]:
    furnish(top)
    words = ["train", *TINY, "method=kd", "name=r", "baseline=false"]
    children = [start(top, [*words, f"seed={seed}"]) for seed in range(4)]
    outcomes = [child.finish(90) for child in children]
    codes = [outcome.code for outcome in outcomes]
    yield "one is done", "" if codes.count(0) == 1 else f"exit codes {codes}"
    wrong = [why for outcome in outcomes if (why := complaint(outcome, (0, 2, 5), ("name", "o/r", "'r'")))]
    yield "the others say why", wrong[0] if wrong else ""
    yield from honest(top, words)


def honest(top: Path, words: list[str]) -> Iterator[tuple[str, str]]:
    """The weights are those of the seed that the record names."""
    seed = json.loads((top / "box/o/r/summary.json").read_text())["seed"]
    other = top / "honest"
    furnish(other)
    start(other, [*words, f"seed={seed}"]).finish(90)
    one, two = (place / "box/o/r/student.safetensors" for place in (top, other))
    yield (
        "the weights are those of the recorded seed",
        "" if one.read_bytes() == two.read_bytes() else f"not those of seed {seed}",
    )


def late_second(top: Path) -> Iterator[tuple[str, str]]:
    box = furnish(top)
    words = ["train", *TINY, "method=kd", "name=r", "baseline=false"]

    def held() -> None:
        """Stops the process where it reads its data, until the other run is done."""
        module = importlib.import_module("kdrun.data.splits")
        real = module.Data.read.__func__

        def read(cls: type, *args: object, **more: object) -> object:
            Path("waiting").touch()
            while not Path("go").exists():
                time.sleep(0.01)
            return real(cls, *args, **more)

        module.Data.read = classmethod(read)

    second = start(top, [*words, "seed=1"], patch=held)
    wait_for(box, "waiting")
    first = start(top, [*words, "seed=0"]).finish(60)
    (box / "go").touch()
    outcomes = [first, second.finish(60)]
    codes = sorted(outcome.code for outcome in outcomes)
    wrong = [why for outcome in outcomes if (why := complaint(outcome, (0, 2, 5), ("name", "o/r", "'r'")))]
    yield (
        "one of them is refused",
        wrong[0] if wrong else "" if codes[0] == 0 and codes[1] in (2, 5) else f"exit codes {codes}",
    )
    yield from honest(top, words)


def resume_of_running(top: Path) -> Iterator[tuple[str, str]]:
    box = furnish(top)
    child = start(top, ["train", *TINY, "method=kd", "name=r", "baseline=false", "epochs=300"])
    wait_for(box, "o/r/metrics.jsonl")
    yield "resume", complaint(start(top, ["train", "resume=o/r"]).finish(60), (5,), ("o/r", "resume"))
    yield (
        "the same name",
        complaint(start(top, ["train", *TINY, "method=kd", "name=r"]).finish(60), (2, 5), ("name", "o/r")),
    )
    yield "the run itself", complaint(child.finish(120), (0,))


def two_resumes(battery: Battery) -> Callable[[Path], Iterator[tuple[str, str]]]:
    def run(top: Path) -> Iterator[tuple[str, str]]:
        box = furnish(top)
        battery.laid("stopped")(box)
        outcomes = [child.finish(60) for child in [start(top, ["train", "resume=o/run"]) for _ in range(3)]]
        codes = sorted(outcome.code for outcome in outcomes)
        wrong = [why for outcome in outcomes if (why := complaint(outcome, (0, 5)))]
        yield "", wrong[0] if wrong else "" if 0 in codes else f"exit codes {codes}"

    return run


def two_sweeps(top: Path) -> Iterator[tuple[str, str]]:
    furnish(top)
    words = ["train", "-m", *TINY, "method=kd", "name=s", "baseline=false", "seed=0,1"]
    outcomes: list[Outcome] = [child.finish(120) for child in [start(top, words) for _ in range(2)]]
    codes = sorted(outcome.code for outcome in outcomes)
    yield "one of them is refused", "" if codes in ([0, 2], [0, 5]) else f"exit codes {codes}"


def report_meanwhile(top: Path) -> Iterator[tuple[str, str]]:
    box = furnish(top)
    child = start(top, ["train", *TINY, "method=kd", "name=r", "baseline=false", "epochs=300"])
    wait_for(box, "o/r/run.json")
    yield "says that none is finished", complaint(start(top, ["report", "o"]).finish(60), (3,), ("o",))
    yield "the run goes on", complaint(child.finish(120), (0,))
