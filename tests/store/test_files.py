from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdrun.errors import InputError, WriteError
from kdrun.models import torchfile
from kdrun.store import files

CODES = [errno.ENOSPC, errno.EIO, errno.EDQUOT]


def failing(code: int, first: int = 1, call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function that works until its ``first`` call, which raises the OSError of ``code``."""
    calls = 0

    def fail(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= first:
            raise OSError(code, os.strerror(code))
        assert call is not None
        return call(*args, **more)

    return fail


class FullDisk(io.FileIO):
    """A file that takes half of what is written and then says ENOSPC, EIO or EDQUOT."""

    code = 0

    def write(self, data: Any) -> int:
        super().write(bytes(data)[: len(data) // 2])
        raise OSError(self.code, os.strerror(self.code))


def broken(monkeypatch: pytest.MonkeyPatch, point: str, code: int) -> None:
    """Makes the step of a write that is called ``point`` fail."""
    if point == "mkstemp":
        monkeypatch.setattr(files.tempfile, "mkstemp", failing(code))
    elif point == "write":
        disk = type("Disk", (FullDisk,), {"code": code})
        monkeypatch.setattr(files.os, "fdopen", lambda handle, mode: disk(handle, mode))
    elif point == "fsync":
        monkeypatch.setattr(files.os, "fsync", failing(code))
    else:
        monkeypatch.setattr(files.os, "replace", failing(code))


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("point", ["mkstemp", "write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    point: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    files.write(path, b"old")
    with monkeypatch.context() as patch:
        broken(patch, point, code)
        with pytest.raises(WriteError) as caught:
            files.write(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.pt"]
    assert str(caught.value) == f"{path}: cannot be written ({os.strerror(code)}); choose another out="
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_a_folder_that_cannot_be_synced_fails_with_a_whole_file(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.pt"
    files.write(path, b"old")
    monkeypatch.setattr(files.os, "fsync", failing(code, 2, os.fsync))
    with pytest.raises(WriteError):
        files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["state.pt"]


def test_an_interrupted_write_leaves_only_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    files.write(tmp_path / "a", b"old")
    monkeypatch.setattr(files.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_the_file_is_synced_before_the_rename_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle: int) -> None:
        seen.append("sync folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "sync file")
        fsync(handle)

    def note_replace(source: str, target: Path) -> None:
        seen.append("rename")
        assert Path(source).read_bytes() == b"content"
        assert Path(source).parent == Path(target).parent  # elsewhere a rename might be a copy
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", note_fsync)
    monkeypatch.setattr(files.os, "replace", note_replace)
    files.write(tmp_path / "a", b"content")
    assert seen == ["sync file", "rename", "sync folder"]


def test_a_reader_never_finds_half_a_file(tmp_path: Path) -> None:
    path, contents = tmp_path / "a", [bytes([letter]) * 100_000 for letter in b"ab"]
    files.write(path, contents[0])
    writer = threading.Thread(target=lambda: [files.write(path, contents[turn % 2]) for turn in range(30)])
    writer.start()
    while writer.is_alive():
        assert path.read_bytes() in contents
    writer.join()


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    files.write(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"]
    assert modes[0] == modes[1]


def test_a_folder_that_was_moved_away_is_not_made_again(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=r"/a/b: cannot be written \(No such file or directory\)"):
        files.write(tmp_path / "a" / "b", b"x")
    assert not any(tmp_path.iterdir())


def test_a_place_below_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(WriteError, match=r"^.*/a/b: cannot be written \([^\n]*\); choose another out=$") as caught:
        files.folder(tmp_path / "a" / "b")
    assert caught.value.exit_code == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="Permission denied") as caught:
        files.write(tmp_path / "a", b"x")
    tmp_path.chmod(0o700)
    assert caught.value.exit_code == 4


def test_only_the_leftovers_of_killed_writers_are_tidied_away(tmp_path: Path) -> None:
    kept = {".lock", "a.tmp", "stages/01-hint.pt", ".hidden"}
    for name in [*kept, ".01-hint.pt.x8_2f.tmp", "stages/.01-hint.pt.abc.tmp"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    files.tidy(tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_json_comes_back_as_it_was_nan_among_it(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, None, "é"], "b": {"c": float("inf")}}
    files.write_json(tmp_path / "a.json", content)
    assert files.read_json(tmp_path / "a.json") == content


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff"])
def test_broken_json_is_named_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"^.*a\.json: is damaged \(it is not JSON\)$"):
        files.read_json(tmp_path / "a.json")


def test_json_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: no such file$"):
        files.read_json(tmp_path / "a.json")


def sealed(path: Path) -> tuple[dict[str, Any], str]:
    state = {
        "epoch": 3,
        "seconds": 1.25,
        "names": ["a", "b"],
        "none": None,
        "weights": {"w": torch.arange(6.0).view(2, 3), "n": torch.tensor([1, 2]), "b": torch.ones(2).bfloat16()},
    }
    return state, files.save(path, state)


def test_a_sealed_state_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    state, digest = sealed(tmp_path / "a.pt")
    loaded, seal = files.load(tmp_path / "a.pt")
    weights, expected = loaded.pop("weights"), state.pop("weights")
    assert loaded == state
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert {name: tensor.dtype for name, tensor in weights.items()} == {
        name: tensor.dtype for name, tensor in expected.items()
    }
    assert digest == seal
    assert len(digest) == 64


def test_one_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    sealed(path)
    whole = path.read_bytes()
    for number in range(300):
        place, bit = number * (len(whole) - 1) // 299, number % 8
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"a\.pt: is damaged \(its sha256 differs\); delete it") as caught:
            files.load(path)
        assert caught.value.exit_code == 3


def test_a_state_cut_short_or_longer_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    sealed(path)
    whole = path.read_bytes()
    for content in [whole[: number * len(whole) // 100] for number in range(100)] + [whole + b"\0"]:
        path.write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            files.load(path)


def test_the_digest_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.digest(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


HEADS = [(b"", "is damaged"), (files.SEAL + bytes(32), "or is no checkpoint")]


@pytest.mark.parametrize(("head", "what"), [*HEADS, (files.SEAL + bytes(32) + torchfile.ZIP, "or is no checkpoint")])
def test_a_huge_file_of_nothing_is_refused_before_it_is_read(head: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "01-distill.pt"
    path.write_bytes(head)
    os.truncate(path, 1 << 40)  # hashing it would take an hour
    with pytest.raises(InputError, match=what):
        files.load(path)
