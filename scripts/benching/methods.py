"""Section 5: what a step of every method costs beside a step of KD, on one pair."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benching.pairs import RESNET20_8
from benching.timing import interleaved, ratio
from benching.worker import Failed, Worker
from kdrun.config.options import Options

TRANSLATING = ("ae_cross", "reconstruction")
"""The methods that do not classify."""

EXTRA = {
    "byot": ["student=selfdistill4"],
    "self_distill": ["student=selfdistill4"],
    "zskd": ["method.count=640"],
    "zskd_asrun": ["method.count=640"],
}
"""Words for methods whose student is of a kind of its own, or that would make a data set of their own first."""

MOST_ROUNDS = 3
"""There are many methods: a third digit of their costs is not worth as many minutes."""


def methods(rounds: int, quick: bool) -> Iterator[list[str]]:
    """Yields a row for each method that classifies: CPU seconds and memory of its steps over those of KD's.

    Every method has a process of its own and is timed in turn with KD; both are in the last stage of the method.
    """
    images, rounds = 128 if quick else 192, min(rounds, MOST_ROUNDS)
    with TemporaryDirectory(prefix="bench-") as folder, stepper("kd", images, Path(folder) / "of-kd") as kd:
        for name in ["kd", "fitnets"] if quick else classifying():
            try:
                yield [f"`{name}`", *row(name, images, kd, rounds, Path(folder) / name)]
            except Failed as failed:
                yield [f"`{name}`", str(failed).strip().splitlines()[-1], "", ""]


def classifying() -> list[str]:
    """Returns the names of all methods for classification."""
    return [name for name in Options().names("method") if name not in TRANSLATING]


def words_of(name: str) -> list[str]:
    """Returns the words with which a method can be run on the pair."""
    return [f"method={name}", *EXTRA.get(name, [])]


def row(name: str, images: int, kd: Worker, rounds: int, folder: Path) -> list[str]:
    """Returns time and memory of a method over KD's, and the stage that is timed."""
    with stepper(name, images, folder) as method:
        seconds = interleaved({"kd": partial(kd, "seconds"), name: partial(method, "seconds")}, rounds)
        stage, held = method("stage_name"), method("held")
    what = " with ".join([stage, *EXTRA.get(name, [])])
    return [str(ratio(seconds[name], seconds["kd"])), f"{held / kd('held'):.2f}", what]


def stepper(name: str, images: int, folder: Path) -> Worker:
    """Returns the last stage of a method on the pair, in a process of its own."""
    about = {"pair": RESNET20_8, "images": images, "words": words_of(name), "folder": folder}
    return Worker("benching.stages", "LastStage", **about)
