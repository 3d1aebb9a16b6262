"""Bad values: nan, inf, text, lists and so on in place of every number; what is senseless is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from battery.cases import Battery, Trial
from battery.many import refused
from kdrun.config.compose import Composer

COMPOSITIONS = (
    ["method=kd"],
    ["method=fitnets"],
    ["method=takd"],
    ["method=gan"],
    ["method=wgan"],
    ["method=adv_basic", "optimizer=sgd"],
    ["method=wskd", "schedule=steps"],
    ["method=temperature", "teacher=none"],
    ["method=tfkd_reg", "teacher=none", "optimizer=rmsprop"],
    ["student=resnet8", "teacher=resnet8", "optimizer=adadelta"],
    ["student=wrn_16_2", "schedule=cosine", "optimizer=adamax"],
)

NEVER = ("nan", "inf", "-inf", "1e400", "four", "{}", "{a: 1}", "true", "'1 2'", "[[]]", "1e-400x", "0x", "\u0661x")
"""Values that no number takes."""

SOMETIMES = ("-1", "0", "null", "[]", "1e30", "-0.5", "0.5", "[1,2,3]")
"""Values that some numbers take: either a clean refusal, or a rehearsal without an error."""

HUGE = ("dataset.crop=1000000", "dataset.pad_to=1000000", "dataset.size=1000000", "threads=1025")
TAKES_MORE = ("claims", "teacher.mean", "teacher.std", "dataset.mean", "dataset.std")
NEVER_NEGATIVE = (
    "seed",
    "epochs",
    "batch_size",
    "threads",
    "size",
    "classes",
    "count",
    "lr",
    "temperature",
    "fraction",
)


def numbers(node: dict[str, Any], where: str = "") -> Iterator[str]:
    """Yields the dotted keys whose value is a number."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{where}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{where}{key}"


def cases(battery: Battery) -> Iterator[Trial]:
    composer, known = Composer(), set[str]()
    for words in COMPOSITIONS[: battery.some(11, 2)]:
        base = ["dataset=synthetic", "dataset.train_count=64", "dataset.test_count=32", *words]
        own = [key for key in numbers(composer.compose(base)) if key not in known]
        known |= set(own)
        lines = [(f"{key}={value}", True) for key in own for value in battery.chance.sample(NEVER, battery.some(6, 1))]
        lines += [
            (f"{key}={value}", refuses(key, value))
            for key in own
            for value in battery.chance.sample(SOMETIMES, battery.some(4, 1))
        ]
        yield Trial(" ".join(words), lambda top, base=base, lines=lines: judged(top, base, lines))
    base = ["dataset=synthetic", "dataset.train_count=64"]
    lines = [(word, True) for word in (*HUGE, *LISTS)]
    yield Trial("sizes and lists", lambda top: judged(top, base, lines))


LISTS = (
    "dataset.std=[0]",
    "dataset.std=[nan]",
    "dataset.mean=[inf]",
    "dataset.std=[1e-38]",
    "dataset.mean=[1,2]",
    "dataset.mean=four",
    "dataset.std=[[1]]",
    "student.taps=nan",
    "student.taps=0",
    "student.taps=-1",
    "student.taps=[nope] method=fitnets",
    "student.taps={}",
    "student.hidden=four",
    "student.hidden=[0]",
    "student.hidden=[-1]",
    "student.hidden=[nan]",
    "student.hidden=[100000000000]",
    "claims=nan",
    "claims=four",
    "claims=-1",
    "claims=0",
    "claims=[]",
    "claims={student: nan}",
    "trust=four",
    "trust=[1]",
    "device=gpu",
    "device=cuda:99",
    "precision=fp16",
    "method.kd_weight=0 method.ce_weight=0",
    "optimizer.betas=[2,2]",
    "optimizer.betas=[nan,0.9]",
    "optimizer.betas=0.9",
    "teacher.recipe.optimizer.lr=nan",
    "teacher.recipe=3",
    "teacher=3",
    "student=[]",
    "method=null",
    "dataset=null",
    "optimizer=null",
)


def refuses(key: str, value: str) -> bool:
    """Whether a value must be refused: a negative size, count or rate."""
    return value.startswith("-") and key.split(".")[-1].endswith(NEVER_NEGATIVE)


def judged(top: Path, base: list[str], lines: list[tuple[str, bool]]) -> Iterator[tuple[str, str]]:
    words = [
        ["train", *base, "dry_run=true", *line.split(" ")]
        if "'" not in line
        else ["train", *base, "dry_run=true", line]
        for line, _ in lines
    ]
    for place, (why, outcome) in enumerate(refused(top, words, (0, 1, 2, 3))):
        if place == len(lines):
            yield "nothing is written", why
            return
        name, must = lines[place]
        yield name, why or ("taken" if must and outcome.code == 0 else "")
