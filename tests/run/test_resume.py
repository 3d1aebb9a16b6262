"""Stopped and resumed, a run ends in the same bits; more epochs go on where it ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdrun.cli import main
from kdrun.config.compose import compose
from kdrun.run.run import run

ROOT = Path(__file__).parents[2]
TINY = [
    "dataset=synthetic",
    "dataset.train_count=120",
    "teacher=mlp_32",
    "teacher.recipe.epochs=2",
    "student=mlp_16",
    "epochs=2",
    "batch_size=32",
    "teacher.recipe.batch_size=32",
    "device=cpu",
]


def test_a_run_stopped_at_random_moments_ends_in_the_same_bits() -> None:
    # In a process of its own: it forks, and a killed child must not be one of pytest.
    command = [sys.executable, "scripts/kill.py", "--kills", "3", "--seed", "1", "--only", "chain of fitnets"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-identical" in done.stdout


def rows(folder: Path) -> list[tuple[str, int]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(row["stage"], row["epoch"]) for row in map(json.loads, lines)]


@pytest.fixture
def twice(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    words = [*TINY, "method=fitnets", "method.hint_epochs=1", f"out={tmp_path}"]
    run(compose(words), folder, words)
    return folder


def test_a_finished_run_resumed_unchanged_trains_no_epoch(twice: Path, tmp_path: Path) -> None:
    before, weights = rows(twice), (twice / "student.safetensors").read_bytes()
    words = [*TINY, "method=fitnets", "method.hint_epochs=1", f"out={tmp_path}"]
    run(compose(words), twice, words)
    assert rows(twice) == before == [("hint", 1), ("distill", 1), ("distill", 2)]
    assert (twice / "student.safetensors").read_bytes() == weights


def test_more_epochs_extend_the_last_stage_but_no_hint_stage(twice: Path, tmp_path: Path) -> None:
    hint = (twice / "stages" / "01-hint.pt").read_bytes()
    words = [*TINY, "method=fitnets", "method.hint_epochs=1", f"out={tmp_path}", "epochs=4"]
    run(compose(words), twice, words)
    assert rows(twice) == [("hint", 1), *(("distill", epoch) for epoch in (1, 2, 3, 4))]
    assert (twice / "stages" / "01-hint.pt").read_bytes() == hint


def test_a_run_resumed_from_elsewhere_finds_its_first_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY, "method=kd", "out=outputs", "name=run"]
    assert main(["train", *words]) == 0
    before = sorted(path.name for path in (tmp_path / "outputs/models").iterdir())
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert main(["train", "resume=../outputs/run", "epochs=3"]) == 0
    assert list((tmp_path / "other").iterdir()) == []
    assert set(before) < {path.name for path in (tmp_path / "outputs/models").iterdir()}  # alone, of more epochs
