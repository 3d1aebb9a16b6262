"""Where the system refuses a run something, it ends in one line, and its folder goes on to the same bits."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import BASE

import kdrun.train.loop
from kdrun.cli import main
from kdrun.run.endings import explanation
from kdrun.store import board, files
from kdrun.store.record import Record
from kdrun.store.run_folder import is_whole

WORDS = ["train", *BASE, "method=kd", "epochs=2", "baseline=false"]
FULL = (errno.ENOSPC, errno.EIO, errno.EDQUOT)


@pytest.fixture(autouse=True)
def unplotted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Record, "figure", lambda *args: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The out of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("endings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "figure", lambda *args: None)
        assert main([*WORDS, f"out={out}", "name=run"]) == 0
    return out


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of the store alone, so that no teacher is trained."""
    shutil.copytree(whole / "models", tmp_path / "out" / "models")
    return tmp_path / "out"


def start(out: Path) -> int:
    return main([*WORDS, f"out={out}", "name=run"])


def line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Error" not in error
    return error


def same_weights(out: Path, whole: Path) -> bool:
    names = ("student.safetensors", "student-last.safetensors")
    return all((out / "run" / name).read_bytes() == (whole / "run" / name).read_bytes() for name in names)


class Failing:
    """A function of the system that works until its call of a number, and from then on fails."""

    def __init__(self, call: Callable[..., Any], code: int, first: int) -> None:
        self.call, self.code, self.first, self.calls = call, code, first, 0

    def __call__(self, *args: Any, **more: Any) -> Any:
        self.calls += 1
        if self.calls >= self.first:
            raise OSError(self.code, os.strerror(self.code))
        return self.call(*args, **more)


@pytest.mark.parametrize("code", FULL, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_disk_that_is_full_at_the_start_leaves_the_name_free(
    name: str, code: int, out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files.os, name, Failing(getattr(os, name), code, 1))
        assert start(out) == 4
    assert f"cannot be written ({os.strerror(code)})" in line(capsys)
    assert start(out) == 0
    assert same_weights(out, whole)


@pytest.mark.parametrize("first", [1, 5, 20])
def test_a_disk_that_is_full_under_tensorboard_is_one_line(
    first: int, out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    writes = os.write
    with monkeypatch.context() as patch:
        failing = Failing(writes, errno.ENOSPC, first)
        patch.setattr(
            board.os, "write", lambda handle, data: writes(handle, data) if handle < 3 else failing(handle, data)
        )
        code = start(out)
    assert code == 4
    assert "events.out.tfevents." in line(capsys)
    assert main(["train", f"resume={out / 'run'}"]) == 0
    assert same_weights(out, whole)


def test_events_are_written_by_the_thread_that_trains(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writers, writes = set(), os.write

    def watched(handle: int, data: Any) -> int:
        writers.add(threading.current_thread())
        return writes(handle, data)

    monkeypatch.setattr(board.os, "write", watched)
    assert start(out) == 0
    assert writers == {threading.main_thread()}


def test_a_short_write_of_an_event_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = os.write
    whole = board.EventFile(tmp_path)
    whole.close()
    size = whole.path.stat().st_size
    monkeypatch.setattr(board.os, "write", lambda handle, data: writes(handle, data[:3]))
    (tmp_path / "short").mkdir()
    short = board.EventFile(tmp_path / "short")
    short.close()
    assert short.path.stat().st_size == size


def at_epoch(number: int, event: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets ``event`` happen before the row of an epoch is written."""
    closes = kdrun.train.loop.close_epoch

    def watched(training: Any, *rest: Any) -> None:
        if training.epoch == number:
            event()
        closes(training, *rest)

    monkeypatch.setattr(kdrun.train.loop, "close_epoch", watched)


def test_a_run_folder_that_was_moved_is_not_begun_anew(
    out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_epoch(2, lambda: (out / "run").rename(out / "moved"), patch)
        assert start(out) == 4
    what = "was moved or removed while the run was working in it; put it back and resume it, or start a new run"
    assert line(capsys) == f"kdrun: error: {out / 'run'}: {what}\n"
    assert not (out / "run").exists()
    (out / "moved").rename(out / "run")
    assert main(["train", f"resume={out / 'run'}"]) == 0
    assert same_weights(out, whole)


@pytest.mark.parametrize("gone", ["run", "."])
def test_a_folder_that_was_removed_is_not_made_again(
    gone: str, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_epoch(1, lambda: shutil.rmtree(out / gone), monkeypatch)
    assert start(out) == 4
    assert "was moved or removed" in line(capsys)
    assert not (out / gone).exists()


def test_another_folder_in_its_place_is_not_written_to(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def swap() -> None:
        (out / "run").rename(out / "moved")
        (out / "run").mkdir()

    at_epoch(2, swap, monkeypatch)
    assert start(out) == 4
    assert "was moved or removed" in line(capsys)
    assert list((out / "run").iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_refused_in_one_line(
    code: int, out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import fcntl

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", Failing(fcntl.flock, code, 1))
        assert start(out) == 4
    error = line(capsys)
    assert f"cannot be written ({os.strerror(code)}); choose a" in error
    assert ("with locks" in error) == (code != errno.EIO)
    assert start(out) == 0


@contextmanager
def open_files(most: int) -> Iterator[None]:
    """Lets the process open only so many more files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 9, before[1]))
    taken: list[int] = []
    try:
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        for _ in range(most):
            os.close(taken.pop())
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for handle in taken:
            os.close(handle)


@pytest.mark.parametrize("most", [0, 1, 2])
def test_too_few_open_files_are_one_line(most: int, out: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_files(most):
        code = start(out)
    error = line(capsys)
    assert code in (1, 3, 4)
    assert "oo many open files" in error
    assert "(ulimit -n)" in error
    assert (main(["train", f"resume={out / 'run'}"]) if is_whole(out / "run") else start(out)) == 0
    assert same_weights(out, whole)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:75] . DefaultCPUAllocator: not enough memory: you tried to allocate"
        ),
        RuntimeError("std::bad_alloc"),
        torch.OutOfMemoryError("CUDA out of memory."),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_said_of_the_batch_size(
    error: Exception, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any) -> Any:
        raise error

    monkeypatch.setattr(kdrun.train.loop, "one_step", fail)
    assert start(out) == 1
    assert line(capsys) == "kdrun: error: batch_size: 32 needs more memory than there is\n"


def test_a_full_disk_of_temporary_files_is_one_line(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/torch/x")

    monkeypatch.setattr(kdrun.train.loop, "one_step", fail)
    assert start(out) == 4
    assert line(capsys).startswith("kdrun: error: /tmp/torch/x: cannot be written (No space left on device); free some")


def test_an_error_of_another_kind_stays_what_it_is() -> None:
    error = RuntimeError("shapes differ")
    assert explanation(error, Path("run")) is error


def test_of_two_runs_of_one_name_one_gets_it(
    out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The late one has passed the check of the name before the first has written anything."""
    execute = kdrun.run.run.execute
    codes: list[int] = []

    def late(*args: Any) -> Any:
        monkeypatch.setattr(kdrun.run.run, "execute", execute)
        codes.append(start(out))
        return execute(*args)

    monkeypatch.setattr(kdrun.run.run, "execute", late)
    assert main([*WORDS, f"out={out}", "name=run", "seed=1"]) == 2
    assert codes == [0]
    assert line(capsys).startswith("kdrun: error: name: 'run' is taken; choose another, or go on with resume=")
    assert same_weights(out, whole)


def test_a_folder_of_ones_own_files_is_never_taken(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "run").mkdir()
    (out / "run" / "notes.txt").write_text("mine")
    assert start(out) == 2
    assert "name: 'run' is taken" in line(capsys)


def test_a_run_without_its_config_is_not_begun_anew(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out" / "run" / "config.yaml").unlink()
    assert start(tmp_path / "out") == 2
    assert "name: 'run' is taken" in line(capsys)


@pytest.mark.parametrize("first", [1, 2])
def test_a_run_that_had_not_begun_begins_by_the_same_command(
    first: int, out: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Killed(BaseException):
        pass

    writes = files.write
    calls: list[Path] = []

    def dying(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == first:
            raise Killed
        writes(path, data)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(files, "write", dying)
        start(out)
    capsys.readouterr()
    assert main(["train", f"resume={out / 'run'}"]) == 3
    assert "it ended before it had begun: start it again with its own command" in line(capsys)
    assert start(out) == 0
    assert same_weights(out, whole)


def test_a_refused_resume_leaves_the_results(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole, tmp_path / "out")
    folder = tmp_path / "out" / "run"
    stage, summary = folder / "stages" / "01-distill.pt", (folder / "summary.json").read_bytes()
    stage.write_bytes(stage.read_bytes()[:-1])
    assert main(["train", f"resume={folder}"]) == 3
    assert "01-distill.pt: is damaged" in line(capsys)
    assert (folder / "summary.json").read_bytes() == summary
