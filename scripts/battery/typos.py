"""Typos: every key of several configs with single letters changed; all are refused, most with the right suggestion."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from battery.cases import Battery, Trial
from battery.many import refused
from kdrun.config.compose import Composer

COMPOSITIONS = (
    [],
    ["method=fitnets"],
    ["method=takd"],
    ["method=wskd", "optimizer=sgd", "schedule=steps"],
    ["method=zskd"],
    ["method=wgan_gp", "optimizer=adamw"],
    ["method=self_distill", "student=selfdistill4", "teacher=none"],
    ["method=tfkd_reg", "teacher=none"],
    ["dataset=mnist", "teacher=mnist_cnn"],
    ["dataset=cifar100", "student=resnet8", "teacher=resnet26", "schedule=cosine"],
    ["dataset=folder", "method=gskd"],
    ["dataset=cityscapes", "student=ae", "teacher=none", "method=ae_cross"],
)

LABELS = ("name", "_target_")
"""Keys that a config shows and nobody sets; a suggestion has no use for them."""


def keys(node: dict[str, Any], where: str = "") -> Iterator[str]:
    """Yields the dotted keys that can be set."""
    for key, value in node.items():
        if where and key in LABELS:
            continue
        yield f"{where}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{where}{key}.")


def typo(key: str, chance: Random) -> str:
    """Returns ``key`` with one letter of one of its parts left out, doubled, replaced, or changed with the next."""
    parts = key.split(".")
    place = chance.randrange(len(parts))
    word = parts[place]
    at = chance.randrange(len(word))
    letter = chance.choice(string.ascii_lowercase)
    edits = [word[:at] + word[at + 1 :], word[:at] + letter + word[at:], word[:at] + letter + word[at + 1 :]]
    if at + 1 < len(word):
        edits.append(word[:at] + word[at + 1] + word[at] + word[at + 2 :])
    parts[place] = chance.choice(edits)
    return ".".join(parts)


def cases(battery: Battery) -> Iterator[Trial]:
    composer, suggestions = Composer(), [0, 0]
    for words in COMPOSITIONS[: battery.some(12, 3)]:
        known = list(keys(composer.compose(words)))
        typos = [(key, typo(key, battery.chance)) for key in known for _ in range(battery.some(4, 1))]
        pairs = [pair for pair in typos if is_typo(pair[1], known)]
        yield Trial(
            " ".join(words) or "the defaults",
            lambda top, words=words, pairs=pairs: judged(top, words, pairs, suggestions),
        )
    yield Trial("the right suggestion in 95 of 100", lambda top: share(suggestions))


def is_typo(word: str, known: list[str]) -> bool:
    return word not in known and all(word.split(".")) and word.split(".")[0] not in ("hydra", "dataset", "model")


def judged(
    top: Path, words: list[str], pairs: list[tuple[str, str]], suggestions: list[int]
) -> Iterator[tuple[str, str]]:
    lines = [["train", *words, f"{wrong}=1"] for _, wrong in pairs]
    names = [f"{wrong}=1" for _, wrong in pairs]
    for place, (why, outcome) in enumerate(refused(top, lines)):
        if place == len(pairs):
            yield "nothing is written", why
            return
        right = pairs[place][0]
        suggestions[0] += f"did you mean '{right}" in outcome.err
        suggestions[1] += 1
        yield names[place], why


def share(suggestions: list[int]) -> Iterator[tuple[str, str]]:
    right, count = suggestions
    percent = 100 * right / max(1, count)
    yield f"{right} of {count} = {percent:.1f} %", "" if percent >= 95 else "fewer than 95 %"
