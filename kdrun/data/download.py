"""Downloads data sets with torchvision: each once, into a temporary folder that is moved into place at the end."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdrun.errors import InputError

LOCK = ".download.lock"

TIMEOUT = 30.0
"""Seconds to wait for a byte; urllib alone would wait for ever behind a firewall that drops packets."""

Fetch = Callable[[Path], None]
"""Downloads a data set into the folder that it is called with, in the same layout as below ``root``."""


def ensure(root: Path, folder: str, names: list[str], missing: Callable[[], list[str]], fetch: Fetch | None) -> None:
    """Downloads the files of a data set if some are missing.

    Args:
        root: the folder of all data sets.
        folder: the folder of this data set, relative to ``root``.
        names: the names of its files.
        missing: returns the names of the missing files.
        fetch: downloads them; None to check only.

    Raises:
        InputError: if files are still missing; the message names them, their place, and the other ways out.
    """
    if not missing():
        return
    reason = "" if fetch is None else _fetch(root, folder, missing, fetch)
    lacking = missing()
    if lacking:
        raise InputError("dataset.root", _lacking(root, folder, names, lacking, reason))


def torchvision(kind: str, **settings: Any) -> Fetch:
    """Returns the function that downloads the data set of the torchvision class ``kind``."""

    def fetch(scratch: Path) -> None:
        import torchvision.datasets  # takes more than a second

        with contextlib.redirect_stdout(sys.stderr):  # torchvision prints its progress
            getattr(torchvision.datasets, kind)(str(scratch), download=True, **settings)

    return fetch


def _lacking(root: Path, folder: str, names: list[str], lacking: list[str], reason: str) -> str:
    place = root / folder
    where = f"{', '.join(lacking)} not found in {place}" if root.is_dir() else f"no such folder '{root}'"
    failed = f" and the download failed ({reason})" if reason else ""
    return (
        f"{where}{failed}; place {', '.join(names)} in {place}, or point dataset.root= or the environment's "
        "KDRUN_DATA to where they are, or use dataset=digits, which needs no download"
    )


def _fetch(root: Path, folder: str, missing: Callable[[], list[str]], fetch: Fetch) -> str:
    """Downloads into a temporary folder, then moves the files; returns why it failed, or an empty string."""
    try:
        with _scratch(root) as scratch, _timeout():
            if missing():  # another process may have been first
                _wait_for(fetch, scratch)
                _publish(scratch / folder, root / folder)
    except (OSError, RuntimeError, ImportError, http.client.HTTPException) as error:
        return " ".join(str(error).split()) or type(error).__name__
    return ""


def _wait_for(fetch: Fetch, scratch: Path) -> None:
    """Downloads in another thread, so that a signal ends the wait even while a name is looked up, which none ends."""
    faults: list[Exception] = []

    def work() -> None:
        try:
            fetch(scratch)
        except Exception as error:  # raised below, if it is still waited for
            faults.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    if faults:
        raise faults[0]


@contextlib.contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    new = [path for path in (root, *root.parents) if not path.exists()]
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / LOCK):
        for leftover in root.glob(".download.*/"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(dir=root, prefix=".download."))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            _remove_empty(root, new)


def _remove_empty(root: Path, new: list[Path]) -> None:
    if root in new and [path.name for path in root.iterdir()] == [LOCK]:
        (root / LOCK).unlink()
        for path in new:
            path.rmdir()


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _publish(scratch: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in scratch.iterdir():
        os.replace(path, folder / path.name)
