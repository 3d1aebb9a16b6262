"""Reads the bytes of a data set's files, and checks that they are complete and the published ones."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path
from typing import BinaryIO

from kdrun.errors import InputError

LFS = b"version https://git-lfs"


def find(folder: Path, name: str) -> Path | None:
    """Returns the path of ``name`` in ``folder``, else that of ``name.gz``, else None."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None


def opened(path: Path) -> BinaryIO:
    """Opens ``path`` for reading, through gzip if its name ends in .gz.

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
    """Returns at most ``count`` bytes of ``file``, fewer at its end; so a .gz cannot unpack to a huge size.

    Raises:
        InputError: if the .gz is damaged or truncated.
    """
    try:
        return file.read(count)
    except EOFError:
        raise InputError(str(path), "truncated; fetch it again") from None
    except (OSError, zlib.error) as error:
        raise InputError(str(path), f"cannot be read ({error}); fetch it again") from None


def verify(path: Path, content: bytes, md5: str | None) -> None:
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
