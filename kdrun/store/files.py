"""Writes files whole or not at all, also in a power cut, and checks them when they are read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from re import split
from typing import Any

from kdrun.errors import InputError, WriteError
from kdrun.store.faults import point

SEAL = b"kdrun1\n"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an ``OSError`` in the block into an error of one line that names ``path`` and the way out.

    Raises:
        WriteError: in place of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(str(path), f"cannot be written ({error.strerror}); choose another out=") from error


def numbered(paths: Iterable[Path]) -> list[Path]:
    """Returns ``paths`` sorted by name, with numbers in the names sorted by value: ``2_b`` before ``10_a``."""

    def parts(path: Path) -> list[str | int]:
        return [int(part) if part.isdigit() else part for part in split(r"(\d+)", str(path))]

    return sorted(paths, key=parts)


def folder(path: Path) -> Path:
    """Creates the folder ``path`` and its parents if they do not exist; returns ``path``.

    Raises:
        WriteError: if it cannot be created.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` so that a reader finds the old file or the new one, also after a power cut.

    The temporary file is in the same folder: a rename is atomic only within one file system.

    Raises:
        WriteError: if it cannot be written; the old file at ``path`` stays as it was.
    """
    folder(path.parent)
    with writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            point("write")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            point("rename")
            os.chmod(name, 0o666 & ~umask())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync(path.parent)
    point("written")


def umask() -> int:
    """Returns the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync(path: Path) -> None:
    """Flushes the renames in folder ``path`` to disk, so that they survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def tidy(path: Path) -> None:
    """Removes the temporary files that a killed process left in ``path``; call it only with the folder locked."""
    for leftover in path.rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes ``content`` as indented JSON."""
    write(path, (json.dumps(content, indent=1, allow_nan=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """Returns the content of the JSON file at ``path``.

    Raises:
        InputError: if the file does not exist or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(str(path), "no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(str(path), f"cannot be read ({error})") from None


def digest(path: Path) -> str:
    """Returns the sha256 of the file at ``path``, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(path: Path, state: dict[str, Any]) -> str:
    """Writes tensors and plain values, preceded by their sha256; returns the sha256 in hex."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    seal = hashlib.sha256(payload)
    write(path, SEAL + seal.digest() + payload)
    return seal.hexdigest()


def load(path: Path) -> tuple[dict[str, Any], str]:
    """Returns the state that ``save`` wrote, with its tensors on the CPU, and its sha256 in hex.

    Raises:
        InputError: if the file is cut short or altered. Torch alone would load a flipped bit without an error.
    """
    import torch

    data = path.read_bytes()
    seal, payload = data[len(SEAL) : len(SEAL) + 32], data[len(SEAL) + 32 :]
    if not data.startswith(SEAL) or hashlib.sha256(payload).digest() != seal:
        raise InputError(str(path), "is damaged (its sha256 differs); delete it to train this stage anew")
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True), seal.hex()
