"""The kinds of runs that are killed are all there are, and pieces are summed."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import kill
import pytest
from tiny import COMPOSER

METHODS = COMPOSER.options.names("method")
CLASSES = {COMPOSER.compose([f"method={name}"])["method"]["_target_"] for name in METHODS}


def composed(kind: str) -> dict[str, object]:
    words = [word for word in kill.KINDS[kind].split() if word != "-m"]
    keys = {word.partition("=")[0]: word for word in words}  # later words win
    return COMPOSER.compose([word.split(",")[0] for word in keys.values()])


def test_every_class_of_method_is_killed_in_some_run() -> None:
    killed = {composed(kind)["method"]["_target_"] for kind in kill.KINDS}  # type: ignore[index]
    assert killed == CLASSES


@pytest.mark.parametrize("kind", kill.KINDS)
def test_every_kind_is_tiny(kind: str) -> None:
    config = composed(kind)
    assert config["epochs"] == 2
    assert config["dataset"]["train_count"] <= 256  # type: ignore[index]


def test_no_point_is_drawn_twice_before_all_are_drawn(tmp_path: Path) -> None:
    kind = kill.Kind("kd", tmp_path, points=[("write", number) for number in range(1, 30)])
    points = [kind.point(Random(0)) for _ in range(29)]
    assert sorted(points) == kind.points


def test_pieces_are_summed_by_kind(tmp_path: Path) -> None:
    piece = {"kind": "kd", "kills": {"kill": 2, "int": 1}, "runs": 2, "identical": 1, "stages": ["write", "a/distill"]}
    other = {**piece, "kills": {"term": 4}, "identical": 2, "stages": ["b/distill"]}
    path = tmp_path / "k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (piece, other)))
    rows = [json.loads(row) for row in path.read_text().splitlines()]
    assert "| kd | 7 | 2 | 4 | 1 | 4 | 3 | 1 | a/distill, b/distill |" in kill.table(rows)
