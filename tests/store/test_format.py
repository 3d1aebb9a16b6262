"""Records of format 1, whose run.json says no format, are refused by whoever would read them."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from tiny import config
from torch import nn

from kdrun import __version__
from kdrun.cli import main
from kdrun.errors import InputError
from kdrun.library import distill
from kdrun.methods.kd import KD
from kdrun.run.run import run
from kdrun.store.format import check_format

IMAGES = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 2


def line(folder: Path) -> str:
    what = f"has a record of format 1, this kdrun ({__version__}) reads 3"
    return f"{folder}: {what}; use the kdrun that wrote it (0.1 for 1), or run it anew"


def age(folder: Path) -> None:
    """Takes the format out of a record, as none was written in those of format 1."""
    for name in ("run.json", "summary.json"):
        content = json.loads((folder / name).read_text())
        assert content.pop("format") == 3
        del content["seal"]
        (folder / name).write_text(json.dumps(content))


def contents(folder: Path) -> dict[Path, bytes]:
    """What all files but the lock hold."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of format 1."""
    out = tmp_path_factory.mktemp("format")
    words = ["method=scratch", "teacher=none"]
    run(config(out, *words), out / "old", words)
    age(out / "old")
    return out / "old"


@pytest.mark.parametrize("words", [["report", "{}"], ["report", "{}/.."], ["train", "resume={}", "epochs=2"]])
def test_a_record_of_format_1_is_refused_in_one_line(
    words: list[str], old: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(old)
    assert main([word.format(old) for word in words]) == 3
    where = Path(words[1].format(old)) / old.name if words[1].endswith("..") else old
    (error,) = capsys.readouterr().err.splitlines()
    assert line(where) in error
    assert contents(old) == before


def test_a_record_of_format_1_leaves_the_others_in_the_report(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["method=scratch", "teacher=none"]
    run(config(tmp_path, *words), tmp_path / "new", words)
    copytree(old, tmp_path / "old")
    assert main(["report", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "mlp_16 alone" in text
    assert f"not in the tables: {line(tmp_path / 'old')}" in text


def test_distill_refuses_a_folder_of_format_1_in_one_line(tmp_path: Path) -> None:
    def net() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 2))

    place: dict[str, Any] = {"folder": tmp_path / "run", "progress": False}

    def again(epochs: int) -> None:
        distill(net(), net(), KD(), (IMAGES, LABELS), epochs=epochs, batch_size=8, **place)

    again(1)
    age(tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(InputError) as caught:
        again(2)
    assert str(caught.value) == line(tmp_path / "run")
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("number", [4, 17])
def test_a_record_of_a_later_format_is_refused_with_its_number(number: int, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"has a record of format {number}, this kdrun \(.*\) reads 3"):
        check_format(tmp_path, {"format": number})
