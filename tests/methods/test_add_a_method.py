"""The README says that a method is one .py and one .yaml: these tests do exactly what it says, word for word."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "README.md").read_text()


def block_of(path: str) -> str:
    """Returns the block of code that the guide shows under the name of a file."""
    match = re.search(rf"`{re.escape(path)}`:\n\n```\w+\n(.*?)```", GUIDE, re.DOTALL)
    assert match, f"README.md does not show {path}"
    return match[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    for folder in ("kdrun", "conf"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ("kdrun/methods/hello.py", "conf/method/hello.yaml"):
        (copy / path).write_text(block_of(path))
    return copy


def kdrun(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kdrun", *words]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)


def test_the_two_files_of_the_guide_are_listed_and_run(checkout: Path) -> None:
    assert "Cross-entropy plus the squared distance" in kdrun(checkout, "ls", "method").stdout
    tiny = [
        "dataset=synthetic",
        "teacher=mlp_16",
        "student=mlp_16",
        "epochs=1",
        "teacher.recipe.epochs=1",
        "device=cpu",
    ]
    done = kdrun(checkout, "train", "method=hello", "method.logits_weight=0.1", *tiny)
    assert done.returncode == 0, done.stderr
    assert "student, hello" in done.stdout


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method.logit_weight=1", "did you mean 'method.logits_weight'"),
        ("method.logits_weight=-1", "method.logits_weight: -1 is out of range [0, inf)"),
    ],
)
def test_what_the_two_files_do_not_take_is_refused_in_one_line(checkout: Path, word: str, message: str) -> None:
    done = kdrun(checkout, "train", "method=hello", word)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
