"""What holds for every YAML file that can be chosen."""

from __future__ import annotations

import inspect
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tiny import COMPOSER

from kdrun.config.build import Builder
from kdrun.config.places import CONF
from kdrun.config.sweep import jobs
from kdrun.run.assembly import check_nodes

FILES = [path.relative_to(CONF).with_suffix("") for path in sorted(CONF.glob("*/*.yaml"))]
CHOICES = [file for file in FILES if file.parts[0] not in ("experiment", "recipe")]  # those have tests of their own
IMAGES = {"channels", "classes", "size"}
BESIDE = {"_target_", "name", "taps", "recipe", "seed", "checkpoint", "mean", "std"}


@cache
def composed(*words: str) -> dict[str, Any]:
    return COMPOSER.compose(words)


def comments(file: Path) -> list[str]:
    lines = (CONF / f"{file}.yaml").read_text("utf-8").splitlines()
    texts = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    return [line for line in texts if not line.startswith("@package")]


def configs(file: Path) -> list[dict[str, Any]]:
    """What the first command in a file's header is about, as far as it is written out: a run, or those of a sweep."""
    commands = [
        match for line in comments(file) if (match := re.match(r"kdrun (-m|train(?: -m)?) (.*?)(?:   |$)", line))
    ]
    kind, text = commands[0].groups()
    words = [word for word in shlex.split(text) if "..." not in word]
    return [composed(*job) for job in (jobs(COMPOSER, words) if kind.endswith("-m") else [words])]


def chosen(file: Path) -> list[Any]:
    """The nodes of a file's group that its command composes; a model's as a student or a teacher."""
    group = file.parts[0]
    roles = ("student", "teacher") if group == "model" else (group,)
    return [config[role] for config in configs(file) for role in roles]


def node(file: Path) -> Any:
    """What a file of a group says, in a whole config."""
    return next(one for one in chosen(file) if (one or {"name": "none"})["name"] == file.name)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file_begins_with_one_line_that_says_what_it_is(file: Path) -> None:
    text = (CONF / f"{file}.yaml").read_text("utf-8")
    assert text.startswith("#")
    line = comments(file)[0]
    assert 10 <= len(line) <= 120
    assert not line.startswith("kdrun")


@pytest.mark.parametrize("file", CHOICES, ids=str)
def test_the_command_in_every_header_composes_with_the_file(file: Path) -> None:
    nodes = chosen(file)
    assert file.name in [node["name"] if node else "none" for node in nodes]


@pytest.mark.parametrize("file", CHOICES, ids=str)
def test_what_every_file_composes_to_is_what_its_classes_take(file: Path) -> None:
    for config in configs(file):
        check_nodes(config)


@pytest.mark.parametrize("file", CHOICES, ids=str)
def test_every_file_lists_exactly_the_arguments_of_its_class(file: Path) -> None:
    group, own = file.parts[0], node(file)
    if own is None or not own["_target_"].startswith("kdrun."):
        return  # an optimizer of torch's lists what is useful
    takes = set(inspect.signature(Builder().target(own, group)).parameters)
    supplied = IMAGES if group in ("model", "teacher", "student") else set()
    assert set(own) - BESIDE == takes - BESIDE - supplied
    assert takes & BESIDE <= set(own)


def test_every_model_can_be_a_teacher_and_a_student() -> None:
    models = {file.name for file in FILES if file.parts[0] == "model"}
    assert set(COMPOSER.options.names("student")) == models
    assert set(COMPOSER.options.names("teacher")) == models | {"none"}


def test_a_model_has_one_file() -> None:
    assert [str(file) for file in FILES if file.parts[0] in ("student", "teacher")] == ["teacher/none"]


def test_every_model_names_its_taps() -> None:
    models = [file for file in FILES if file.parts[0] == "model"]
    assert [file.name for file in models if not node(file)["taps"]] in ([], ["torchvision"])
