from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_makers import batch, cifar_files, lay, picture

from kdrun.data.cache import place
from kdrun.data.cifar import CIFAR10
from kdrun.data.folder import Folder
from kdrun.data.splits import Data
from kdrun.errors import InputError

FOLDER = "cifar-10-batches-py"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache."""
    monkeypatch.setenv("KDRUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def source(tmp_path: Path) -> CIFAR10:
    lay(tmp_path / "root" / FOLDER, cifar_files())
    return CIFAR10(root=str(tmp_path / "root"), verify=False, download=False)


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one each time that files are parsed."""
    seen: list[str] = []
    parse = CIFAR10._parse
    monkeypatch.setattr(CIFAR10, "_parse", lambda self: (seen.append("again"), parse(self))[1])
    return seen


def kept() -> Path:
    (path,) = place().iterdir()
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
    whole = kept().read_bytes()
    for place in places:
        spoilt = bytearray(whole)
        spoilt[place] ^= 1
        kept().write_bytes(spoilt)
        again = replace(source)
        assert (again.read()[0].digest(), again.names, again.digest) == (before, names, before)


@pytest.mark.parametrize("length", [0, 7, 100, 60_000])
def test_what_was_kept_and_cut_short_is_parsed_anew(source: CIFAR10, parses: list[str], length: int) -> None:
    source.read()
    os.truncate(kept(), length)
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


def test_the_cache_is_private_and_never_beside_the_data(source: CIFAR10, folder: Path) -> None:
    before = sorted(Path(source.root).rglob("*"))
    source.read()
    assert sorted(Path(source.root).rglob("*")) == before
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.parent for path in folder.rglob("*")] == [folder]


def test_the_cache_is_in_the_users_cache_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDRUN_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_CACHE_HOME", "/big/cache")
    assert place() == Path("/big/cache/kdrun/data")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert place() == Path("/home/someone/.cache/kdrun/data")


def barred(folder: Path) -> None:
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    folder.parent.write_text("a file where the cache would be")


def open_to_others(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o777)


def elsewhere(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    (folder.parent.parent / "other").mkdir()
    folder.symlink_to(folder.parent.parent / "other")


@pytest.mark.parametrize("bar", [barred, open_to_others, elsewhere])
def test_where_nothing_can_be_kept_one_line_tells(bar: Callable[[Path], None], source: CIFAR10, folder: Path) -> None:
    bar(folder)
    for again in (source, replace(source)):
        (note,) = (note for note in Data.read(again).notes if "class" not in note)
        assert note.startswith(f"what was decoded is not kept: {folder} cannot be written")
        assert note.endswith("set KDRUN_CACHE to a folder of yours")


def test_a_cache_that_others_can_write_to_is_not_believed(
    source: CIFAR10, folder: Path, parses: list[str]
) -> None:
    source.read()
    folder.chmod(0o722)
    replace(source).read()
    assert len(parses) == 2


def test_a_linked_cache_is_not_believed(source: CIFAR10, tmp_path: Path, parses: list[str]) -> None:
    source.read()
    path = kept()
    shutil.move(path, tmp_path / "theirs")
    path.symlink_to(tmp_path / "theirs")
    source.read()
    assert len(parses) == 2


def test_a_cache_that_came_with_the_data_is_not_believed(tmp_path: Path, folder: Path, parses: list[str]) -> None:
    lay(tmp_path / "theirs" / FOLDER, cifar_files(data_batch_1=batch(10, 7)))
    CIFAR10(root=str(tmp_path / "theirs"), verify=False, download=False).read()
    lay(tmp_path / "mine" / FOLDER, cifar_files())
    for name in (".kdrun-0123456789abcdef.safetensors", kept().name):
        shutil.copy(kept(), tmp_path / "mine" / FOLDER / name)
    mine = CIFAR10(root=str(tmp_path / "mine"), verify=False, download=False)
    pixels = mine.read()[0].images
    assert not torch.equal(pixels, CIFAR10(root=str(tmp_path / "theirs"), verify=False, download=False).read()[0].images)


def test_the_caches_of_two_folders_are_two(tmp_path: Path, source: CIFAR10, parses: list[str]) -> None:
    source.read()
    shutil.copytree(source.root, tmp_path / "copy")
    for root in (str(tmp_path / "copy"), source.root, str(tmp_path / "copy")):
        replace(source, root=root).read()
    assert len(parses) == 2


def test_another_file_in_its_place_of_the_same_time_is_a_change(source: CIFAR10, parses: list[str]) -> None:
    source.read()
    path = Path(source.root) / FOLDER / "test_batch"
    state, content = path.stat(), batch(10, 0, labels=[1] * 10)
    assert len(content) == state.st_size
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert replace(source).read()[1].targets.tolist() == [1] * 10


def test_a_verified_file_that_changed_is_verified_again(source: CIFAR10, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(source.root) / FOLDER
    md5 = {name: hashlib.md5((place / name).read_bytes()).hexdigest() for name in CIFAR10.md5}
    monkeypatch.setattr(CIFAR10, "md5", md5)
    verifying = replace(source, verify=True)
    verifying.read()
    (place / "data_batch_3").write_bytes(batch(10, 8))
    replace(source).read()
    with pytest.raises(InputError, match="data_batch_3: md5 differs"):
        replace(verifying).read()


def test_a_start_reads_no_file_of_the_data_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        for number in range(4):
            picture(tmp_path / "own" / name / f"{number}.png", np.full((8, 8, 3), number, dtype=np.uint8))
    before = Folder(root=str(tmp_path / "own"), size=8).read()[0].digest()
    monkeypatch.setattr("kdrun.data.raw.opened", lambda path: pytest.fail(f"{path} is read"))
    assert Folder(root=str(tmp_path / "own"), size=8).read()[0].digest() == before


def test_the_test_images_survive_the_loss_of_what_was_kept(source: CIFAR10) -> None:
    source.read()
    data = Data.read(replace(source))
    path = kept()
    before = [data.train.digest(), data.test.digest()]
    os.truncate(path, 0)
    assert [data.train.digest(), data.test.digest()] == before
