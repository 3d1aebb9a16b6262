"""Reads the bytes of a data set's files, and checks that they are complete and the published ones."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

from kdrun.errors import InputError

LFS = b"version https://git-lfs"

CHUNK = 1 << 20

EXPANSION = 25
"""A .gz that unpacks to more than this many times its size is refused; image data shrink to a fifth at the most."""

SMALL = 1 << 24
"""The bytes that any .gz may unpack to."""


def find(folder: Path, name: str) -> Path | None:
    """Returns the path of ``name`` in ``folder``, else that of ``name.gz``, else None."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def opened(path: Path) -> BinaryIO:
    """Opens ``path`` for reading, through gzip if its name ends in .gz.

    Raises:
        InputError: if it is unreadable, empty, no regular file, or a Git LFS pointer.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError(str(path), "is no regular file; replace or remove it")
        # not blocking, because a pipe that has taken the file's place since would wait for a writer
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        head = file.read(len(LFS))
        file.seek(0)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    if not head:
        file.close()
        raise InputError(str(path), "empty file; fetch it again")
    if head == LFS:
        file.close()
        raise InputError(str(path), "is a Git LFS pointer; fetch the real file (git lfs pull)")
    if path.suffix != ".gz":
        return file
    file.close()
    return gzip.open(path)  # type: ignore[return-value]


def capacity(path: Path) -> int:
    """Returns the most bytes that ``path`` may hold, unpacked: a header that promises more is wrong."""
    size = path.stat().st_size
    return max(EXPANSION * size, SMALL) if path.suffix == ".gz" else size


LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container's memory limit stands, in bytes or as ``max``."""


def memory() -> int:
    """Returns the bytes of memory that this machine, or the container on it, has."""
    known = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in map(Path, LIMITS):
        with contextlib.suppress(OSError, ValueError):
            known.append(int(path.read_text()))
    return min(known)


def take(file: BinaryIO, path: Path, count: int) -> bytearray:
    """Returns at most ``count`` bytes of ``file``, fewer at its end; memory is taken as they are read.

    Raises:
        InputError: if the .gz is damaged or truncated, or memory runs out.
    """
    content = bytearray()
    try:
        while part := file.read(min(CHUNK, count - len(content))):
            content += part
    except EOFError:
        raise InputError(str(path), "truncated; fetch it again") from None
    except MemoryError:
        raise InputError(str(path), f"needs more memory than there is ({len(content)} bytes read)") from None
    except (OSError, zlib.error) as error:
        raise InputError(str(path), f"cannot be read ({error}); fetch it again") from None
    return content


def verify(path: Path, content: bytes | bytearray, md5: str | None) -> None:
    """Checks that ``content`` is that of the published file.

    Args:
        path: the path of the file, for the error.
        content: the content of the file, uncompressed.
        md5: the md5 of the published file, in hex; None to accept any content.

    Raises:
        InputError: if the md5 differs.
    """
    if md5 is None:
        return
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != md5:
        what = f"md5 differs from the published file's (got {digest}, not {md5})"
        raise InputError(str(path), f"{what}; fetch it again, or go on with dataset.verify=false")
