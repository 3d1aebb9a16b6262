"""Runs a command of kdrun in a process forked after the imports, under limits, and watches what it does.

The process gets a box of its own: its working directory ``box``, beside it a home, a folder for temporary files, a
folder ``outside`` that must stay as it is, and a folder of programs that comes first on the path. An audit hook notes
every file that is opened to write, every program that is started and every address that is connected to.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

import kdrun.run.run  # noqa: F401  imported before the forks, which would each pay for it
from kdrun.cli import main

TINY = """dataset=synthetic dataset.size=8 dataset.train_count=64 dataset.test_count=32 teacher=mlp_32 student=mlp_16
epochs=2 batch_size=16 teacher.recipe.epochs=2 teacher.recipe.batch_size=16 device=cpu out=o""".split()
"""A run of a second; ``out`` is relative, so that a copied box is whole."""

CANARY = "canary-5d1f7b"
"""The value of an environment variable that must not be copied anywhere."""

SPACE = 6 << 30
"""Bytes of address space that a process may add to what it was forked with, so that a bomb spares the machine."""


@dataclass
class Outcome:
    """What a command did.

    Args:
        code: its exit code; minus the signal's number if one ended it.
        out: its standard output.
        err: its standard error.
        seconds: wall-clock time.
        megabytes: how far its memory grew beyond what it was forked with.
        timed_out: whether it was ended because it took too long.
        noted: what the audit hook saw: ``write PATH``, ``run PROGRAM``, ``connect ADDRESS``.
        orphans: whether it left a process behind.
    """

    code: int
    out: str = ""
    err: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    timed_out: bool = False
    noted: list[str] = field(default_factory=list)
    orphans: bool = False


@dataclass
class Child:
    """A command that is running."""

    pid: int
    top: Path
    number: int
    began: float
    resident: int

    def text(self, name: str) -> str:
        path = self.top / f"{name}{self.number}"
        return path.read_text("utf-8", "replace") if path.is_file() else ""

    def finish(self, seconds: float) -> Outcome:
        """Waits at most ``seconds`` for the end, then kills what is left of the command."""
        status, timed_out, peak = None, False, 0
        while status is None:
            pid, ended, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                status, peak = ended, used.ru_maxrss
            elif time.monotonic() - self.began > seconds and not timed_out:
                timed_out = True
                os.killpg(self.pid, signal.SIGKILL)
            else:
                time.sleep(0.004)
        taken = time.monotonic() - self.began
        orphans = False
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
            orphans = not timed_out
        return Outcome(
            code=os.waitstatus_to_exitcode(status),
            out=self.text("stdout"),
            err=self.text("stderr"),
            seconds=taken,
            megabytes=max(0, peak - self.resident) / 1024,
            timed_out=timed_out,
            noted=self.text("noted").splitlines(),
            orphans=orphans,
        )


def furnish(top: Path) -> Path:
    """Makes a box and what surrounds it; returns the box."""
    for name in ("box", "home", "tmp", "outside", "bin"):
        (top / name).mkdir(parents=True, exist_ok=True)
    (top / "outside" / "precious.txt").write_text("not to be touched\n")
    for name in ("gs", "pip", "curl", "wget"):
        program = top / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} >> {top / 'ran'}\n")
        program.chmod(0o755)
    return top / "box"


def start(
    top: Path,
    argv: Sequence[str],
    env: Mapping[str, str] = {},
    patch: Callable[[], object] | None = None,
    space: int = SPACE,
    stdout: str = "",
) -> Child:
    """Starts ``kdrun ARGV`` in the box of ``top``.

    Args:
        top: the folder that ``furnish`` has filled.
        argv: the words of the command line.
        env: what is added to the environment; an empty value takes away.
        patch: called in the process before kdrun is, to make the system fail.
        space: bytes of address space that may be added.
        stdout: a path in place of a file for the standard output.
    """
    number = len(list(top.glob("stderr*")))
    (top / f"stderr{number}").touch()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    began = time.monotonic()
    if child := os.fork():
        return Child(child, top, number, began, resident)
    code = 70
    try:
        enter(top, number, env, space, stdout)
        if patch:
            patch()
        code = main(list(argv))
        sys.stdout.flush()
    except BaseException as error:
        os.write(2, f"{type(error).__name__} out of main: {error}\n".encode())
    os._exit(code & 0xFF)


def enter(top: Path, number: int, env: Mapping[str, str], space: int, stdout: str) -> None:
    """Makes the forked process one of its own: session, folder, environment, streams, limits, audit hook."""
    os.setsid()
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
    os.chdir(top / "box")
    places = {"HOME": top / "home", "TMPDIR": top / "tmp", "XDG_CACHE_HOME": top / "home" / ".cache"}
    about = {"PATH": f"{top / 'bin'}:{os.environ['PATH']}", "KDRUN_BATTERY_TOKEN": CANARY}
    for name in ("KDRUN_DATA", "KDRUN_CACHE", "HYDRA_FULL_ERROR", "KDRUN_FAULT", "PYTHONPATH"):
        os.environ.pop(name, None)
    os.environ.update({**{name: str(path) for name, path in places.items()}, **about, **env})
    import tempfile

    tempfile.tempdir = None
    for handle, name in (
        (0, "/dev/null"),
        (1, stdout or str(top / f"stdout{number}")),
        (2, str(top / f"stderr{number}")),
    ):
        flags = os.O_RDONLY if handle == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.dup2(os.open(name, flags, 0o644), handle)
    sys.argv = ["kdrun"]
    warnings.resetwarnings()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + space, used + space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    listen(os.open(top / f"noted{number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))


WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")


def listen(handle: int) -> None:
    """Notes in the file ``handle`` what the process does to the world from now on."""
    here = os.getpid()

    def hear(event: str, args: tuple[object, ...]) -> None:
        if os.getpid() != here:
            return
        if event == "open" and isinstance(args[2], int) and args[2] & WRITING and isinstance(args[0], (str, bytes)):
            os.write(handle, f"write {os.path.abspath(os.fsdecode(args[0]))}\n".encode("utf-8", "replace"))
        elif event in STARTING:
            os.write(handle, f"run {args[1] if event == 'subprocess.Popen' else args[0]!r}\n".encode())
        elif event == "socket.connect":
            os.write(handle, f"connect {args[1]}\n".encode())

    sys.addaudithook(hear)


def warm(scratch: Path) -> None:
    """Imports what a run imports on its way, so that the forked processes do not each pay for it."""
    torch.set_num_threads(1)
    top = scratch / "warm"
    furnish(top)
    listing = scratch / "modules.json"

    def report() -> None:
        global_exit = os._exit

        def leave(code: int) -> None:
            listing.write_text(json.dumps(list(sys.modules)))
            global_exit(code)

        os._exit = leave  # type: ignore[assignment]

    start(top, ["train", *TINY, "method=fitnets", "method.hint_epochs=1", "name=w"], patch=report).finish(120)
    for name in json.loads(listing.read_text()):
        with suppress(Exception):
            importlib.import_module(name)
    for name in ("scipy.io", "torchvision.datasets", "kdrun.data.folder", "kdrun.data.svhn", "kdrun.cli.report"):
        importlib.import_module(name)
    shutil.rmtree(top)


LARGE = 50_000_000


def snapshot(top: Path) -> dict[str, str]:
    """Returns a digest of every file, folder and link around the box, by its path."""
    seen = {}
    for folder, names, files in os.walk(top):
        for name in [*names, *files]:
            path = Path(folder, name)
            relative = str(path.relative_to(top))
            if re.fullmatch(r"(stdout|stderr|noted)\d+", relative):
                continue
            if path.is_symlink():
                seen[relative] = f"-> {os.readlink(path)}"
            elif path.is_file():
                large = path.stat().st_size > LARGE
                seen[relative] = (
                    str(path.stat().st_mtime_ns) if large else hashlib.sha256(path.read_bytes()).hexdigest()
                )
            else:
                seen[relative] = "folder" if path.is_dir() else "special"
    return seen


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Returns the paths that were written, made or removed."""
    return sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
