from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_makers import batch, cifar_files, lay

from kdrun.data.cifar import CIFAR10
from kdrun.data.splits import Data
from kdrun.errors import InputError, WriteError

FOLDER = "cifar-10-batches-py"


@pytest.fixture
def source(tmp_path: Path) -> CIFAR10:
    lay(tmp_path / FOLDER, cifar_files())
    return CIFAR10(root=str(tmp_path), verify=False, download=False)


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one each time that files are parsed."""
    seen: list[str] = []
    parse = CIFAR10._parse
    monkeypatch.setattr(CIFAR10, "_parse", lambda self: (seen.append("again"), parse(self))[1])
    return seen


def kept(source: CIFAR10) -> Path:
    (path,) = (Path(source.root) / FOLDER).glob(".kdrun-*")
    return path


def test_files_are_parsed_once_and_the_same_comes_back(source: CIFAR10, parses: list[str]) -> None:
    first, again = Data.read(source), Data.read(replace(source))
    assert parses == ["again"]
    assert first.digest == again.digest == source.read()[0].digest()
    for part in ("train", "val", "test"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(first, part), getattr(again, part), strict=True))
    assert again.source.names == list("abcdefghij")


def test_notes_of_the_first_reading_are_not_forgotten(source: CIFAR10, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = CIFAR10._parse
    monkeypatch.setattr(CIFAR10, "_parse", lambda self: (setattr(self, "notes", ["odd"]), parse(self))[1])
    assert Data.read(source).notes[0] == Data.read(replace(source)).notes[0] == "odd"


def test_a_changed_file_is_parsed_again(source: CIFAR10, parses: list[str]) -> None:
    before = Data.read(source).digest
    (Path(source.root) / FOLDER / "data_batch_1").write_bytes(batch(10, 7))
    assert Data.read(replace(source)).digest != before
    assert len(parses) == 2


def test_another_time_of_modification_is_a_change(source: CIFAR10, parses: list[str]) -> None:
    source.read()
    os.utime(Path(source.root) / FOLDER / "test_batch", ns=(1, 1))
    source.read()
    assert len(parses) == 2


@pytest.mark.parametrize("places", [range(0, 900, 7), range(900, 180_000, 4001), range(-1, -5000, -999)])
def test_one_flipped_bit_in_the_cache_changes_no_data(source: CIFAR10, places: range) -> None:
    before, names = source.read()[0].digest(), source.names
    whole = kept(source).read_bytes()
    for place in places:
        spoilt = bytearray(whole)
        spoilt[place] ^= 1
        kept(source).write_bytes(spoilt)
        again = replace(source)
        assert (again.read()[0].digest(), again.names, again.digest) == (before, names, before)


@pytest.mark.parametrize("length", [0, 7, 100, 60_000])
def test_what_was_kept_and_cut_short_is_parsed_anew(source: CIFAR10, parses: list[str], length: int) -> None:
    source.read()
    os.truncate(kept(source), length)
    assert source.read()[0].size == 50
    assert len(parses) == 2


def test_only_arguments_that_change_the_parsing_parse_again(source: CIFAR10, parses: list[str]) -> None:
    lay(Path(source.root) / FOLDER, {"batches.meta": cifar_files()["batches.meta"]})
    source.read()
    replace(source, crop=2, flip=False, mean=[0.1] * 3, val_fraction=0.5, train_size=3, pad_to=40).read()
    assert len(parses) == 1
    assert replace(source, classes=10, pad_to=40).native == 32


def test_a_cache_of_unverified_files_does_not_pass_for_verified(source: CIFAR10) -> None:
    source.read()
    with pytest.raises(InputError, match="md5 differs"):
        replace(source, verify=True).read()


def test_data_in_a_read_only_folder_is_read_all_the_same(source: CIFAR10, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise WriteError(str(path), "cannot be written")

    monkeypatch.setattr("kdrun.data.cache.files.write", refuse)
    assert source.read()[0].size == 50
    assert list((Path(source.root) / FOLDER).glob(".kdrun-*")) == []


def test_the_test_images_survive_the_loss_of_what_was_kept(source: CIFAR10) -> None:
    source.read()
    data = Data.read(replace(source))
    path = kept(source)
    before = [data.train.digest(), data.test.digest()]
    os.truncate(path, 0)
    assert [data.train.digest(), data.test.digest()] == before
