"""A case: what is set up, the command, and what must hold after it. A trial: several commands that belong together."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from random import Random

from battery.runner import CANARY, SPACE, Child, Outcome, changes, furnish, snapshot, start

Check = Callable[[Path, Outcome], str]
"""Called with the box and the outcome; returns what does not hold, or ""."""


@dataclass(frozen=True)
class Result:
    """What came of a case: passed where ``why`` is empty; skipped where it begins with "skipped".

    ``note`` says what came of a damaged file, which a table of its own counts.
    """

    kind: str
    name: str
    why: str
    note: str = ""

    @property
    def status(self) -> str:
        return "passed" if not self.why else "skipped" if self.why.startswith("skipped") else "failed"


def no_check(box: Path, outcome: Outcome) -> str:
    return ""


def untrained(box: Path, outcome: Outcome) -> str:
    """Nothing of the box ran or was trained, and it did not take long."""
    if (box / "hit").exists():
        return "code ran"
    if any(path.stat().st_size for path in box.rglob("metrics.jsonl")):
        return "trained before it was refused"
    return f"took {outcome.seconds:.0f} s" if outcome.seconds > 10 else ""


@dataclass(frozen=True)
class Case:
    """One command and what must hold.

    Args:
        name: what is done, in a line.
        argv: the words of the command line.
        make: sets the box up.
        codes: the exit codes that may come.
        names: one of these must stand in the line of an error; none where it is empty.
        writes: patterns of paths beside the box's own that the command may write or remove, relative to the box.
        env: what is added to the environment.
        patch: called in the process before kdrun, to make the system fail.
        drive: called with the running process and the box, to send signals or take files away.
        check: what must hold beside all this.
        seconds: the most that it may take.
        megabytes: the most that its memory may grow by.
        lines: the most lines on stderr.
    """

    name: str
    argv: Sequence[str]
    make: Callable[[Path], object] | None = None
    codes: tuple[int, ...] = (2,)
    names: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    patch: Callable[[], object] | None = None
    drive: Callable[[Child, Path], object] | None = None
    check: Check = no_check
    seconds: float = 20.0
    megabytes: float = 400.0
    lines: int = 1
    space: int = SPACE
    stdout: str = ""


@dataclass(frozen=True)
class Trial:
    """Several commands in one place; ``run`` is given an empty folder and yields (name, what does not hold, note)."""

    name: str
    run: Callable[[Path], Iterable[tuple[str, ...]]]


@dataclass(frozen=True)
class Battery:
    """What the kinds make their cases with.

    Args:
        stock: finished and stopped runs, data sets and models to be copied, see ``battery.stock``.
        chance: the seeded source of all choices.
        quick: whether a sample is enough.
    """

    stock: Path
    chance: Random
    quick: bool

    def some(self, count: int, quick: int) -> int:
        """How many to take: fewer in a quick battery."""
        return quick if self.quick else count

    def laid(self, *names: str) -> Callable[[Path], object]:
        """Copies parts of the stock into a box."""

        def lay(box: Path) -> None:
            for name in names:
                source = self.stock / name
                if source.is_dir():
                    shutil.copytree(source, box, symlinks=True, dirs_exist_ok=True)
                else:
                    shutil.copy2(source, box)

        return lay


CLASS = re.compile(
    r"\b(?!KdrunError)[A-Z]\w*(?:Error|Exception|Warning|Interrupt|Timeout)\b|<class|object at 0x|NoneType"
)
TORCH = re.compile(r"weights_only|pickle_module|UserWarning|enforce fail|DefaultCPUAllocator|\[Errno")


def complaint(outcome: Outcome, codes: Sequence[int], names: Sequence[str] = (), lines: int = 1) -> str:
    """Returns what is wrong with the code and the words of a command; "" if nothing is."""
    written = [line for line in outcome.err.splitlines() if line.strip()]
    errors = [line for line in written if line.startswith("kdrun: error: ")]
    text = " ".join(written)
    last = (errors or written or [""])[-1][:160]
    if outcome.code not in codes:
        return f"exit code {outcome.code} in place of {' or '.join(map(str, codes))}: {last}".rstrip(": ")
    if "Traceback" in outcome.err:
        return f"a traceback: {last}"
    if match := CLASS.search(text) or TORCH.search(text):
        return f"raw ({match[0]}): {last}"
    if len(written) > lines:
        return f"{len(written)} lines on stderr: {last}"
    if 1 <= outcome.code <= 5 and len(errors) != 1:
        return f"no line of the form 'kdrun: error: ...': {last}"
    if re.search(
        r"[\x00-\x08\x0b-\x1f\x7f]", outcome.err + re.sub(r"\x1b\[[0-9;]*m", "", outcome.out).replace("\r", "")
    ):
        return "a control character reaches the terminal"
    if names and outcome.code and not any(name in text for name in names):
        return f"names none of {', '.join(names)}: {last}"
    if len(text) > 700:
        return f"{len(text)} letters: {last}"
    return ""


HARMLESS = ("/dev/null", "/dev/tty", "/proc/", "/sys/fs/cgroup")
ALLOWED = ("git", "uname", "lscpu", "nvidia-smi", "ldconfig", "gcc", "fc-list")
"""Programs that a run may start: the commit of the working directory, and what libraries ask of the machine."""


def conduct(top: Path, outcome: Outcome, changed: Sequence[str], writes: Sequence[str]) -> str:
    """Returns what the command did that it must not: files, programs, addresses, processes, secrets."""
    if outcome.orphans:
        return "left a process behind"
    for noted in outcome.noted:
        what, _, place = noted.partition(" ")
        if what == "write" and not place.startswith((str(top), *HARMLESS)):
            return f"opened {place} to write"
        if what == "run" and place.strip("'\"[]").split("/")[-1].split("'")[0] not in ALLOWED:
            return f"started {place}"
        if what == "connect" and "127.0.0.1" not in place and "/" not in place:
            return f"connected to {place}"
    if (top / "ran").is_file():
        return f"started {(top / 'ran').read_text().split()[0]}"
    for path in changed:
        inside = path.removeprefix("box/")
        if path.startswith(("home/", "tmp/")) or path in ("home", "tmp"):
            continue  # caches of libraries; a box has its own
        if not (path.startswith("box/") and any(fnmatch(inside, pattern) for pattern in writes)):
            return f"wrote {path.removeprefix('box/')}"
    return secret(top, changed)


def secret(top: Path, changed: Sequence[str]) -> str:
    """Returns where a secret of the environment was copied to; "" if nowhere."""
    for path in changed:
        if CANARY in path or ((file := top / path).is_file() and CANARY.encode() in file.read_bytes()):
            return f"copied a variable of the environment to {path}"
    return ""


def attend(case: Case, top: Path) -> Outcome:
    """Runs the command of a case in ``top``, which is furnished."""
    argv = [word.replace("{box}", str(top / "box")) for word in case.argv]
    child = start(top, argv, case.env, case.patch, case.space, case.stdout)
    if case.drive:
        case.drive(child, top / "box")
    return child.finish(case.seconds)


def run_case(kind: str, case: Case, keep: Path | None = None) -> Result:
    """Runs a case and judges it; its box is kept in ``keep`` if that is given."""
    top = Path(tempfile.mkdtemp(prefix="battery-"))
    try:
        box = furnish(top)
        if case.make and isinstance(skip := case.make(box), str):
            return Result(kind, case.name, f"skipped: {skip}")
        before = snapshot(top)
        outcome = attend(case, top)
        why = judged(case, top, outcome, before)
        if keep:
            shutil.copytree(
                top, keep, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("fifo*", "pipe*")
            )
        return Result(kind, case.name, why)
    except Exception as error:
        return Result(kind, case.name, f"the case itself failed: {type(error).__name__}: {error}")
    finally:
        shutil.rmtree(top, ignore_errors=True)


def judged(case: Case, top: Path, outcome: Outcome, before: Mapping[str, str]) -> str:
    """Returns the first thing that does not hold after a case."""
    if outcome.timed_out:
        return f"endless: killed after {case.seconds:.0f} s"
    did = conduct(top, outcome, changes(before, snapshot(top)), case.writes)
    if did:
        return did
    if words := complaint(outcome, case.codes, case.names, case.lines):
        return words
    if outcome.megabytes > case.megabytes:
        return f"memory grew by {outcome.megabytes:.0f} MB (at most {case.megabytes:.0f})"
    return case.check(top / "box", outcome)


def run_trial(kind: str, trial: Trial) -> list[Result]:
    """Runs a trial; an exception in it is a failure of that trial."""
    top = Path(tempfile.mkdtemp(prefix="battery-"))
    try:
        return [Result(kind, f"{trial.name}: {name}".rstrip(": "), *rest) for name, *rest in trial.run(top)]
    except Exception as error:
        return [Result(kind, trial.name, f"the trial itself failed: {type(error).__name__}: {error}")]
    finally:
        shutil.rmtree(top, ignore_errors=True)
