"""Section 5: what a step of every method costs beside a step of KD, on one pair."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from benching.pairs import RESNET20_8
from benching.timing import interleaved, ratio
from benching.worker import Failed, Worker
from kdrun.config.compose import Composer

FEWER = {"zskd": ["method.count=640"], "zskd_asrun": ["method.count=640"]}
"""Words of methods that would make a data set of their own first."""

STUDENTS = {"self_distill": ["student=selfdistill4"]}
"""Words for the methods of a module whose student has to be of a kind of its own."""


def methods(rounds: int, quick: bool, only: list[str] | None = None) -> Iterator[list[str]]:
    """Yields a row for each method that classifies: CPU seconds and memory of its steps over those of KD's.

    Every method has a process of its own and is timed in turn with KD; both are in the last stage of the method.
    """
    images = 128 if quick else 256
    with stepper("kd", [], images) as kd:
        kd("seconds")
        for name, words in chosen(only or (["kd", "fitnets"] if quick else None)):
            try:
                yield [f"`{name}`", *row(name, words, images, kd, rounds)]
            except Failed as failed:
                yield [f"`{name}`", str(failed).strip().splitlines()[-1], "", ""]


def chosen(only: list[str] | None) -> Iterator[tuple[str, list[str]]]:
    """Yields the name of each method for classification and the words that it needs on this pair."""
    composer = Composer()
    for name in only or composer.options.names("method"):
        target = composer.compose([f"method={name}"])["method"]["_target_"]
        module = target.split(".")[2]
        if re.search("reconstruction|ae_cross", module):
            continue  # for image translation
        yield name, [*FEWER.get(name, []), *STUDENTS.get(module, [])]


def row(name: str, words: list[str], images: int, kd: Worker, rounds: int) -> list[str]:
    """Returns time and memory of a method over KD's, and the stage that is timed."""
    with stepper(name, words, images) as method:
        seconds = interleaved({"kd": partial(kd, "seconds"), name: partial(method, "seconds")}, rounds)
        stage, peak = method("stage_name"), method("peak")
    return [str(ratio(seconds[name], seconds["kd"])), f"{peak / kd('peak'):.2f}", stage]


def stepper(name: str, words: list[str], images: int) -> Worker:
    """Returns the last stage of a method on the pair, in a process of its own."""
    return Worker("benching.stages", "LastStage", pair=RESNET20_8, images=images, words=[f"method={name}", *words])
