"""Times loops in turn: interleaved, the order reversed each round, so that a machine's moods meet all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple


class Ratio(NamedTuple):
    """The median of a ratio over the rounds, its least and its largest value."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        digits = 1 if self.median >= 20 else 2
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}-{self.high:.{digits}f}]"


def interleaved(loops: Mapping[str, Callable[[], float]], rounds: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Returns the seconds of each loop, one number a round.

    Args:
        loops: runs one pass and returns its seconds, by name.
        rounds: how often each is timed; in every second round the order is reversed.
        warm_up: whether each is run once before the first round.
    """
    names = list(loops)
    for name in names if warm_up else ():
        loops[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(loops[name]())
    return seconds


def ratio(over: list[float], under: list[float]) -> Ratio:
    """Returns how many times the seconds ``under`` go into ``over``, round by round."""
    each = [one / other for one, other in zip(over, under, strict=True)]
    return Ratio(median(each), min(each), max(each))
