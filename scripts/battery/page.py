"""docs/reliability.md: the method, the table by kind, every failure in a line, and what is not tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from battery.cases import Result


class Kind(NamedTuple):
    """A kind of fault: the module of its cases, and what they are."""

    module: str
    what: str


KINDS = {
    "typos": Kind(
        "typos", "one letter of a key changed, in 12 configs: refused, with the right suggestion in 95 of 100"
    ),
    "values": Kind("values", "nan, inf, text, lists, huge and negative numbers in place of every number"),
    "words": Kind("words", "words of the command line: `_target_`, `hydra.*`, names, flags, sweeps, secrets"),
    "kills": Kind("kills", "kill -9 of runs, sweeps and workers at any point, then the same command again"),
    "signals": Kind("signals", "INT, TERM and HUP in every phase, also in downloads and decoding"),
    "locks": Kind("locks", "several processes with one name, one run folder, one teacher"),
    "writing": Kind(
        "writing", "full and broken disks, quotas, closed pipes, folders that vanish, few files, little memory"
    ),
    "corruption": Kind("corruption", "one bit changed, or the end cut off, in every kind of file that is read"),
    "checkpoints": Kind("checkpoints", "hostile and unfit files as `teacher.checkpoint`"),
    "folders": Kind("folders", "hostile and damaged run folders as `resume`"),
    "yaml": Kind("yamls", "hostile YAML files in conf folders, and Python files beside them"),
    "data": Kind("files", "hostile images, idx files, pickles, MATLAB files and caches"),
    "reports": Kind("reports", "`kdrun report` over hostile and damaged runs"),
    "numbers": Kind("numbers", "numbers at the edge: overflow, weights of zero, too little memory for them"),
}

METHOD = """Each case runs one command in a process forked after the imports, in a box of its own: a working folder,
a home, a folder for temporary files, and a folder outside that must stay as it is. An audit hook notes
every file opened to write, every program started and every address connected to. A case passes if the
exit code is the documented one; stderr has at most the lines it may, one `kdrun: error: ...` that names
the key or the file, without the name of a Python class, a traceback or advice of a library; nothing is
written but what the case allows; no program runs but `git`; time and memory stay within bounds; no
secret of the environment is copied; and, where a result is due, it is bit for bit that of an undisturbed
run. All choices are seeded."""

NOT_TESTED = """- GPUs; NFS itself (errors of its locks are simulated); a real quota (EDQUOT is simulated); power loss
- Archives of data sets: kdrun extracts none itself, torchvision's own extraction was not tried
- TensorBoard's own page; SLURM, Ray and Optuna launchers
- Kills of a process while it moves downloaded files into place; a clock that is wrong"""


def table(results: Sequence[Result]) -> str:
    """Returns the table by kind, in Markdown."""
    rows = ["| kind | what | tried | passed | failed | skipped |", "|---|---|---|---|---|---|"]
    total: Counter[str] = Counter()
    for kind in dict.fromkeys(result.kind for result in results):
        counts = Counter(result.status for result in results if result.kind == kind)
        total += counts
        rows.append(f"| {kind} | {KINDS[kind].what} | {counted(counts)} |")
    return "\n".join([*rows, f"| sum | | {counted(total)} |"])


def counted(counts: Counter[str]) -> str:
    judged = counts["passed"] + counts["failed"]
    return f"{judged} | {counts['passed']} | {counts['failed']} | {counts['skipped']}"


NOTES = ("refused", "repaired or harmless", "silent", "raw")


def notes(results: Sequence[Result]) -> str:
    """Returns the table of damaged files, by what they are."""
    rows = [f"| file | {' | '.join(NOTES)} |", "|---|---|---|---|---|"]
    noted = [(result.name.rpartition(": ")[0], result.note) for result in results if result.note]
    for name in dict.fromkeys(name for name, _ in noted):
        counts = Counter(note for other, note in noted if other == name)
        rows.append(f"| {name} | {' | '.join(str(counts[note]) for note in NOTES)} |")
    return "\n".join(rows)


def page(results: Sequence[Result], seed: int, seconds: float) -> str:
    """Returns the whole page."""
    failed = [line(result) for result in results if result.status == "failed"]
    skipped = [f"- {result.kind}: {result.name}: {result.why}" for result in results if result.status == "skipped"]
    parts = [
        "# Reliability",
        f"This page is written by `python scripts/faults.py --seed {seed}`, which took {seconds / 60:.0f} minutes.",
        "It may be the sum of pieces, run one after another, some of them a sample (`--quick`): see the numbers tried.",
        f"## Method\n\n{METHOD}",
        f"## By kind\n\n{table(results)}",
        f"## Damaged files\n\nOne bit changed, or the end cut off.\n\n{notes(results)}",
        "## Failures\n\nTo see one: `python scripts/faults.py --only KIND --case NAME`.\n\n"
        + ("\n".join(failed) or "None."),
        f"## Not tested\n\n{NOT_TESTED}" + "".join(f"\n{each}" for each in skipped),
    ]
    return "\n\n".join(parts) + "\n"


def line(result: Result) -> str:
    text = f"- {result.kind}: `{result.name}`: {result.why}".replace("|", "\\|")
    return "".join(letter if letter.isprintable() else "?" for letter in text)
