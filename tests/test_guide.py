"""The guides do what they say: their files are laid, their commands run, word for word, but for fewer steps; and kdrun
says what they quote."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_makers import picture
from tiny import COMPOSER

import kdrun
from kdrun.cli import main
from kdrun.config.places import UserConf
from kdrun.config.sweep import jobs
from kdrun.run.assembly import check_nodes

DOCS = Path(__file__).parent.parent / "docs"
GUIDE = (DOCS / "bring-your-own.md").read_text()
LIBRARY = (DOCS / "library.md").read_text()
TROUBLE = (DOCS / "troubleshooting.md").read_text()

BLOCK = re.compile(r"(?:^`([\w./-]+)`:\n\n)?^```(\w+)\n(.*?)```", re.DOTALL | re.MULTILINE)
QUICK = ["fast_dev_run=true", "device=cpu"]


def commands(text: str) -> list[str]:
    return [line for _, kind, code in BLOCK.findall(text) if kind == "sh" for line in code.splitlines()]


def lay(text: str, folder: Path) -> None:
    """Writes the files that the guide shows under a name, and images for it."""
    for name, _, code in BLOCK.findall(text):
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(code)
    draw = np.random.default_rng(0)
    for label in ("cat", "dog", "owl"):
        for number in range(60):
            picture(folder / "images" / label / f"{number:04}.png", draw.integers(0, 256, (33, 40, 3), dtype=np.uint8))


def test_the_guide_says_what_to_type() -> None:
    assert len(commands(GUIDE)) == 10
    assert all(line.split()[0] in ("kdrun", "python") for line in commands(GUIDE))


def test_every_command_of_the_guide_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    lay(GUIDE, tmp_path)
    for line in commands(GUIDE):
        program, *words = shlex.split(line)
        if program == "python":
            runpy.run_path(words[0])
        else:
            assert main([*words, *(QUICK if "ls" not in words else [])]) == 0, f"{line}\n{capsys.readouterr().err}"
    out = capsys.readouterr().out
    assert "teacher torchvision from teacher.pth: top1" in out
    assert "teacher mlp_100 from outputs/first/student.safetensors: top1" in out
    assert "One convolution of my own" in out
    assert {path.name for path in Path("outputs/grid").glob("*_*")} == {
        "0_kd_seed=0",
        "1_kd_seed=1",
        "2_logits_seed=0",
        "3_logits_seed=1",
    }


def test_every_key_that_the_guide_names_in_passing_is_taken(compose: Callable[..., dict[str, Any]]) -> None:
    named = [code for code in re.findall(r"`([^`\n]+=[^`\n]+)`", GUIDE) if not code.startswith("hydra/")]
    assert len(named) == 7
    for code in named:
        check_nodes(compose("dataset=folder", "teacher=torchvision", *shlex.split(code)))


def test_what_the_guide_says_of_packages_is_what_kdrun_asks_for() -> None:
    (block,) = [code for _, kind, code in BLOCK.findall(GUIDE) if kind == "toml"]
    assert list(tomllib.loads(block)["project"]["entry-points"]) == ["kdrun.conf"]
    assert "kdrun.conf" in str(UserConf.__doc__)


def test_every_block_of_the_librarys_guide_runs_and_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [code for _, kind, code in BLOCK.findall(LIBRARY) if kind == "python"]
    assert len(blocks[0].split("\n\n")[1].splitlines()) <= 10
    space: dict[str, object] = {}
    for code in blocks:
        exec(compile(code, "docs/library.md", "exec"), space)
    done = space["done"]
    assert [row["epoch"] for row in done.rows] == [1, 2, 3]  # type: ignore[attr-defined]


def quoted(text: str) -> list[str]:
    """Returns the messages that a guide quotes: the lines of its blocks of text."""
    return [line for _, kind, code in BLOCK.findall(text) if kind == "text" for line in code.splitlines()]


def printed() -> set[str]:
    """Returns all strings in kdrun's sources but docstrings; those of an f-string end where a value comes."""
    trees = [ast.parse(path.read_text("utf-8")) for path in sorted(Path(kdrun.__file__).parent.rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    documents = {node.value for node in nodes if isinstance(node, ast.Expr)}
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and node not in documents]
    return {string for string in strings if isinstance(string, str) and string}


SAYS = printed()


def is_printed(part: str) -> bool:
    """Whether the code can print ``part``: it lies in a string, or is an end of one, whole ones, a beginning of one."""
    if any(part in string for string in SAYS):
        return True
    reached = {0} | {place for place in range(1, len(part)) if any(string.endswith(part[:place]) for string in SAYS)}
    whole = [string for string in SAYS if len(string) > 1 or not string.isalnum()]
    for place in range(len(part)):
        if place in reached:
            if any(string.startswith(part[place:]) for string in SAYS):
                return True
            reached |= {place + len(string) for string in whole if part.startswith(string, place)}
    return len(part) in reached


def missing(message: str) -> list[str]:
    """Returns the parts of a message, between what is named ``<so>`` because it differs, that the code cannot print."""
    return [part for part in re.split(r"<[^>]*>", message) if not is_printed(part)]


def test_a_message_that_the_code_does_not_print_is_noticed() -> None:
    assert missing("name: <name> is taken; choose another, or go on with resume=<folder>") == []
    assert missing("name: <name> is gone; choose another") == [" is gone; choose another"]
    assert missing("name: <name> is taken; choose one more") == [" is taken; choose one more"]
    assert missing("nam: <name> is taken; choose another") == ["nam: "]


def test_the_messages_of_every_trouble_are_quoted() -> None:
    sections = TROUBLE.split("\n## ")[1:]
    assert len(sections) == 11
    assert sum(bool(quoted(section)) for section in sections) == 9  # a bad student and a slow run say nothing
    assert len(quoted(TROUBLE)) > 20


@pytest.mark.parametrize("message", quoted(TROUBLE))
def test_every_message_that_is_quoted_is_one_of_the_code(message: str) -> None:
    assert missing(message) == []


@pytest.mark.parametrize("command", re.findall(r"`(kdrun (?:train|-m) [^`]+)`", TROUBLE))
def test_every_way_out_of_a_trouble_is_a_command_that_is_taken(command: str) -> None:
    for overrides in jobs(COMPOSER, shlex.split(command)[2:]):
        check_nodes(COMPOSER.compose(overrides))
