from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdrun.store import files
from kdrun.store.evaluations import Evaluation, Evaluations

FIELDS = {"model": "a", "task": "classification", "images": 4, "classes": 3, "environment": {"threads": 1}}
KEPT = Evaluation({"top1": 0.1 + 0.2, "loss": 1 / 3}, 42, [0, 2, 1, 1])


class Measuring:
    """Evaluations in a folder, and how often they had to be measured."""

    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        self.evaluations, self.count = Evaluations(folder, self.lines.append), 0

    def __call__(self, result: Evaluation = KEPT, **fields: Any) -> Evaluation:
        def measure() -> Evaluation:
            self.count += 1
            return result

        return self.evaluations.get("net", {**FIELDS, **fields}, measure)


@pytest.fixture
def measuring(tmp_path: Path) -> Measuring:
    return Measuring(tmp_path / "scores")


def only(measuring: Measuring) -> Path:
    [path] = measuring.evaluations.folder.iterdir()
    return path


@pytest.mark.parametrize("result", [KEPT, Evaluation({"top1": 5e-324, "loss": 1e30})])
def test_what_was_measured_once_comes_back_bit_for_bit(measuring: Measuring, result: Evaluation) -> None:
    assert measuring(result) == measuring(result) == result
    assert (measuring.count, measuring.lines) == (1, [])


@pytest.mark.parametrize("other", [{"model": "b"}, {"images": 5}, {"environment": {"threads": 2}}, {"more": None}])
def test_other_circumstances_are_measured_on_their_own(measuring: Measuring, other: dict[str, Any]) -> None:
    measuring()
    measuring(Evaluation({"top1": 0.0}), **other)
    assert measuring() == KEPT
    assert measuring.count == 2


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"0.3")] ^= 1
    path.write_bytes(bytes(data))


def sealed(**changes: Any) -> Callable[[Path], None]:
    """Changes fields of the file, and seals it again."""

    def change(path: Path) -> None:
        files.write_json(path, {**files.read_json(path), **changes})

    return change


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (cut, "is damaged (it is not JSON)"),
        (flip, "is damaged (its sha256 differs)"),
        (lambda path: path.write_text(json.dumps({"seal": 1})), "is damaged (it does not end with its sha256)"),
        (sealed(scores={"top1": "high", "loss": 1}), "is damaged (scores.top1: 'high' is not a number)"),
        (sealed(scores={"top1": 1.0, "loss": float("nan")}), "is damaged (scores.loss: nan is out of range"),
        (sealed(scores={"top1": 1.5, "loss": 1.0}), "is damaged (scores.top1: 1.5 is out of range [0, 1])"),
        (sealed(scores={"top1": 1.0}), "is damaged (scores.loss: null is not a number)"),
        (sealed(flops=1.5), "is damaged (flops: 1.5 is not a whole number)"),
        (sealed(flops=None, predicted="0 1 2"), "is damaged (predicted: is not 4 classes)"),
        (sealed(predicted="0 1 2 3"), "is damaged (predicted: has a class above 2)"),
        (sealed(predicted="0 1 2 -1"), "is damaged (predicted: is not 4 classes)"),
        (sealed(fields={**FIELDS, "model": "b"}), "is of other models or images"),
    ],
)
def test_a_damaged_file_is_named_and_replaced(measuring: Measuring, damage: Callable[[Path], None], what: str) -> None:
    measuring()
    path = only(measuring)
    whole = path.read_bytes()
    damage(path)
    assert measuring() == KEPT
    [line] = measuring.lines
    assert line.startswith(f"{path}: {what}")
    assert line.endswith("; it is measured anew")
    assert (measuring.count, path.read_bytes()) == (2, whole)


def test_where_nothing_can_be_written_the_run_goes_on(tmp_path: Path, measuring: Measuring) -> None:
    (tmp_path / "scores").write_text("no folder")
    assert measuring() == KEPT
    what = "cannot be written (File exists); the next run measures its scores again"
    assert measuring.lines == [f"{tmp_path / 'scores'}: {what}"]


def test_more_images_than_a_file_holds_are_not_kept(measuring: Measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdrun.store.evaluations.MOST_IMAGES", 3)
    measuring()
    assert not measuring.evaluations.folder.exists()
