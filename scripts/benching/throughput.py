"""Section 1: kdrun's loop against its bare step and against the loop everyone writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benching.pairs import LENET, PAIRS, RESNET20_8, Pair
from benching.timing import Ratio, interleaved, ratio
from benching.worker import Worker

HEAD = [
    "pair",
    "precision",
    "kdrun live / everyone's loop",
    "kdrun known / everyone's loop",
    "live / bare live",
    "known / bare known",
]

QUICK = [(RESNET20_8, 128), (LENET, 640)]
"""The pairs and images of a quick look."""


def throughput(rounds: int, quick: bool) -> Iterator[list[str]]:
    """Yields the rows of the table: how many times as many images a CPU second as the loop it is compared with."""
    for pair, images in QUICK if quick else [(pair, pair.images) for pair in PAIRS]:
        yield from rows(pair, measured(pair, images, rounds, ("fp32", "bf16")))


def measured(pair: Pair, images: int, rounds: int, precisions: Sequence[str]) -> dict[str, list[float]]:
    """Returns the CPU seconds of an epoch of every loop, a number a round."""
    about = {"pair": pair, "images": images}
    with (
        TemporaryDirectory(prefix="bench-") as folder,
        Worker("benching.everyone", "Everyone", **about) as everyone,
        Worker("benching.loops", "Ours", **about, precisions=precisions, folder=Path(folder)) as ours,
    ):
        loops: dict[str, Callable[[], float]] = {name: partial(ours, "seconds", name) for name in ours("names")}
        return interleaved({"everyone": partial(everyone, "seconds"), **loops}, rounds)


def rows(pair: Pair, seconds: dict[str, list[float]]) -> Iterator[list[str]]:
    """Yields a row for each precision."""
    for precision in (name.removeprefix("live ") for name in seconds if name.startswith("live ")):
        yield [pair.name, precision, *map(str, ratios(seconds, precision))]


def ratios(seconds: dict[str, list[float]], precision: str) -> list[Ratio]:
    """Returns the speed of kdrun's loop, live and known, over everyone's, then each over its bare step."""
    live, known = (seconds[f"{kind} {precision}"] for kind in ("live", "known"))
    minimal = (seconds[f"bare {kind} {precision}"] for kind in ("live", "known"))
    over_everyone = [ratio(seconds["everyone"], own) for own in (live, known)]
    return [*over_everyone, *(ratio(step, own) for step, own in zip(minimal, (live, known), strict=True))]
