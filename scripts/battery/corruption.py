"""Corruption: one bit changed at sampled bytes, and the end cut off, in all kinds of files that kdrun reads.

Each change is counted as refused (exit 3, one line; or left out of a report that names the file), repaired or
harmless (the result is that of the whole file), silent (exit 0 and another result) or raw (anything else). Silent and
raw are failures; silent is none where the file has no digest to compare with, which the artefact's name then says.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from battery.cases import Battery, Trial, complaint
from battery.runner import TINY, furnish, start
from battery.stock import FITNETS, differing

OTHER = [word for word in FITNETS if word != "name=run"] + ["name=other"]
SHORT = [word for word in TINY if not word.startswith(("dataset", "epochs", "teacher"))] + [
    "teacher=none",
    "method=scratch",
    "epochs=1",
    "name=run",
    "baseline=false",
    "student=mlp_16",
]


@dataclass(frozen=True)
class Artefact:
    """A kind of file.

    Args:
        name: what it is, and by which command it is read.
        lot: the part of the stock that holds it.
        pattern: the file or files in it.
        argv: the command that reads it.
        flips, cuts: how many of each.
        sealed: whether there is a digest to compare with, so that nothing may pass in silence.
        patch: called in the process before kdrun.
    """

    name: str
    lot: str
    pattern: str
    argv: list[str]
    flips: int = 40
    cuts: int = 12
    sealed: bool = True
    patch: Callable[[], None] | None = None


RESUME, REPORT = ["train", "resume=o/run"], ["report", "o/run"]
CHECKPOINT = ["train", *TINY, "method=kd", "name=other", "baseline=false"]
MNIST = ["train", "dataset=mnist", "dataset.root=data", "dataset.download=false", *SHORT]
CIFAR = ["train", "dataset=cifar10", "dataset.root=data", "dataset.download=false", "dataset.verify=false", *SHORT]
SVHN = ["train", "dataset=svhn", "dataset.root=data", "dataset.download=false", "dataset.verify=false", *SHORT]


def published(lot: Path) -> Callable[[], None]:
    """Returns a patch: the stock's idx files are the published ones."""

    def patch() -> None:
        module = importlib.import_module("kdrun.data.idx")
        module.MNIST.md5 = {
            path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in (lot / "data/MNIST/raw").iterdir()
        }

    return patch


def artefacts(battery: Battery) -> list[Artefact]:
    known = published(battery.stock / "idx")
    return [
        Artefact("stages of a stopped run, resume", "stopped", "o/run/stages/*.pt", RESUME),
        Artefact("stages of a finished run, resume", "whole", "o/run/stages/*.pt", RESUME, 24, 8),
        Artefact("model.safetensors of the store", "whole", "o/models/mlp_32*/model.safetensors", ["train", *OTHER]),
        Artefact("manifest.json of the store", "whole", "o/models/mlp_32*/manifest.json", ["train", *OTHER]),
        Artefact("scores of the store", "whole", "o/models/scores/mlp_32*.json", ["train", *OTHER]),
        Artefact(
            "student.safetensors as checkpoint",
            "whole",
            "o/run/student.safetensors",
            [*CHECKPOINT, "teacher=mlp_16", "teacher.checkpoint=o/run/student.safetensors"],
        ),
        Artefact(
            "model.safetensors of the store as checkpoint",
            "whole",
            "o/models/mlp_32*/model.safetensors",
            [*CHECKPOINT, "teacher.checkpoint={file}"],
        ),
        Artefact("config.yaml, resume", "whole", "o/run/config.yaml", RESUME),
        Artefact("config.yaml of a stopped run, resume", "stopped", "o/run/config.yaml", RESUME),
        Artefact("run.json, resume", "stopped", "o/run/run.json", RESUME),
        Artefact("metrics.jsonl, resume", "stopped", "o/run/metrics.jsonl", RESUME),
        Artefact("metrics.jsonl of a finished run, resume", "whole", "o/run/metrics.jsonl", RESUME, 24, 8),
        Artefact("summary.json, report", "whole", "o/run/summary.json", REPORT),
        Artefact("config.yaml, report", "whole", "o/run/config.yaml", REPORT),
        Artefact("run.json, report", "whole", "o/run/run.json", REPORT, 24, 8),
        Artefact("metrics.jsonl, report", "whole", "o/run/metrics.jsonl", REPORT),
        Artefact("manifest.json of the store, report", "whole", "o/models/mlp_32*/manifest.json", REPORT, 24, 8),
        Artefact("summary.json of a job, report of its sweep", "sweep", "o/run/*/summary.json", REPORT, 24, 8),
        Artefact("idx, published", "idx", "data/MNIST/raw/*", MNIST, 24, 8, patch=known),
        Artefact("idx.gz, published", "idxgz", "data/MNIST/raw/*", MNIST, 24, 8, patch=known),
        Artefact("idx.gz, verify=false", "idxgz", "data/MNIST/raw/*", [*MNIST, "dataset.verify=false"], 24, 8),
        Artefact("idx, no digest", "idx", "data/MNIST/raw/*", [*MNIST, "dataset.verify=false"], 24, 8, sealed=False),
        Artefact("CIFAR batches, no digest", "cifar", "data/cifar-10-batches-py/*", CIFAR, 24, 8, sealed=False),
        Artefact("SVHN, no digest", "svhn", "data/SVHN/*", SVHN, 24, 8, sealed=False),
        Artefact(
            "png of a folder",
            "folder",
            "pics/*/*.png",
            ["train", "dataset=folder", "dataset.root=pics", "dataset.size=8", *SHORT, "batch_size=4"],
            24,
            8,
        ),
    ]


def cases(battery: Battery) -> Iterator[Trial]:
    packed = battery.stock / "idxgz"
    if not packed.is_dir():
        shutil.copytree(battery.stock / "idx", packed)
        for path in list((packed / "data/MNIST/raw").iterdir()):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
            path.unlink()
    chosen = artefacts(battery)
    for artefact in chosen if not battery.quick else battery.chance.sample(chosen, 6):
        yield Trial(artefact.name, lambda top, artefact=artefact: damaged(battery, artefact, top))


def damaged(battery: Battery, artefact: Artefact, top: Path) -> Iterator[tuple[str, str, str]]:
    whole = top / "whole"
    code, _ = read(battery, artefact, whole, None)
    if code:
        yield "the whole file", f"exit code {code}", ""
        return
    for number in range(battery.some(artefact.flips, 3) + battery.some(artefact.cuts, 2)):
        place = top / str(number)
        flip = number < battery.some(artefact.flips, 3)
        yield judged(battery, artefact, whole, place, flip)
        shutil.rmtree(place)


def judged(battery: Battery, artefact: Artefact, whole: Path, place: Path, flip: bool) -> tuple[str, str, str]:
    """Damages a file, runs the command, and says what came of it."""
    what: list[str] = []
    paths: list[Path] = []

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        at, bit = battery.chance.randrange(len(content)), battery.chance.randrange(8)
        if flip:
            content[at] ^= 1 << bit
        path.write_bytes(content if flip else content[:at])
        paths.append(path.relative_to(place / "box"))
        what.append(f"{path.name}, bit {bit} of byte {at}" if flip else f"{path.name} cut to {at} bytes")

    code, words = read(battery, artefact, place, damage)
    if words:
        return what[0], f"raw: {words}", "raw"
    if code == 3 or left_out(paths[0], place / "box"):
        return what[0], "", "refused"
    if not (different := unlike(whole / "box", place / "box", artefact.argv[0] == "report")):
        return what[0], "", "repaired or harmless"
    return what[0], f"silent: other {different}" if artefact.sealed else "", "silent"


def read(battery: Battery, artefact: Artefact, top: Path, damage: Callable[[Path], None] | None) -> tuple[int, str]:
    """Runs the command on a copy of the lot, its file damaged first; returns the exit code and what is wrong."""
    box = furnish(top)
    battery.laid(artefact.lot)(box)
    path = battery.chance.choice(sorted(box.glob(artefact.pattern)))
    if damage:
        damage(path)
    argv = [word.replace("{file}", str(path.relative_to(box))) for word in artefact.argv]
    outcome = start(top, argv, patch=artefact.patch).finish(60)
    (box / "stdout.txt").write_text(outcome.out if artefact.argv[0] == "report" else "")
    return outcome.code, complaint(outcome, (0, 3)) if not outcome.timed_out else "endless"


def left_out(path: Path, box: Path) -> bool:
    """Whether a report names the damaged file among what it left out."""
    lines = (box / "stdout.txt").read_text().splitlines()
    return any(line.startswith("not in the ") and f" {path}: " in line for line in lines)


def unlike(whole: Path, other: Path, report: bool) -> str:
    """Returns the first result in which two boxes differ: what a report says, else also the damaged file itself."""
    if not report:
        return next(iter(differing(whole, other)), "")
    for pattern in ("stdout.txt", "o/run/report.csv", "o/run/report.md", "o/run/*.png"):
        for path in whole.glob(pattern):
            twice = other / path.relative_to(whole)
            if not twice.is_file() or path.read_bytes() != twice.read_bytes():
                return path.name
    return ""
