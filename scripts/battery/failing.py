"""Makes the operating system fail in a forked process: full disks, broken disks, locks that do not work."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import tempfile
from collections.abc import Callable
from typing import Any

CALLS = {"fsync": (os, "fsync"), "replace": (os, "replace"), "mkstemp": (tempfile, "mkstemp"), "mkdir": (os, "mkdir")}


def failing(call: str, number: int, error: str, for_ever: bool = True) -> Callable[[], None]:
    """Returns a patch: the ``number``-th use of a call of the system fails with ``error``, and so do all after it.

    Args:
        call: one of ``CALLS``, ``flock`` or ``append`` (opening a file to add to it).
        number: from 1.
        error: the name of the error, such as ENOSPC.
        for_ever: whether the later ones fail too, as on a full disk.
    """

    def patch() -> None:
        module, name = CALLS.get(call, (fcntl, call))
        setattr(module, name, wrapped(getattr(module, name), number, getattr(errno, error), for_ever))

    return patch


def wrapped(real: Callable[..., Any], number: int, error: int, for_ever: bool) -> Callable[..., Any]:
    left = [number]

    def call(*args: Any, **words: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 or (for_ever and left[0] < 0):
            raise OSError(error, os.strerror(error), args[0] if args and isinstance(args[0], str) else None)
        return real(*args, **words)

    return call


def limited(what: int, most: int) -> Callable[[], None]:
    """Returns a patch: the process may have no more of a resource, such as open files or bytes in a file."""

    def patch() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(what, (most, resource.getrlimit(what)[1]))

    return patch
