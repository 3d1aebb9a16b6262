"""The bytes of a data set's files: present, whole, and the published ones."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import BinaryIO

from kdrun.errors import InputError

LFS = b"version https://git-lfs"


def find(folder: Path, name: str) -> Path | None:
    """Returns the file ``name`` in ``folder``, or ``name.gz`` where only that is there, or None."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def opened(path: Path) -> BinaryIO:
    """Returns ``path`` opened for reading, through gzip where its name ends in .gz.

    Raises:
        InputError: if it is unreadable, empty, or a Git LFS pointer.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(LFS))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    if not head:
        raise InputError(str(path), "empty file; fetch it again")
    if head == LFS:
        raise InputError(str(path), "is a Git LFS pointer; fetch the real file (git lfs pull)")
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def take(file: BinaryIO, path: Path, count: int) -> bytes:
    """Returns at most ``count`` bytes of ``file``, fewer at its end; a .gz cannot unpack to more than was asked for.

    Raises:
        InputError: if the .gz is damaged, or cut before its end.
    """
    try:
        return file.read(count)
    except EOFError:
        raise InputError(str(path), "truncated; fetch it again") from None
    except (OSError, zlib.error) as error:
        raise InputError(str(path), f"cannot be read ({error}); fetch it again") from None


def verify(path: Path, content: bytes, md5: str | None) -> None:
    """Compares ``content`` to the published file.

    Args:
        path: where it came from.
        content: of the file, unpacked.
        md5: of the published file, in hex; None to take any.

    Raises:
        InputError: if they differ.
    """
    if md5 is None:
        return
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        what = f"md5 differs from the published file's (got {found}, not {md5})"
        raise InputError(str(path), f"{what}; fetch it again, or go on with dataset.verify=false")
