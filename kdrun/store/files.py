"""All writing and reading of what must survive: whole or not at all, and checked when read."""

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
    """Turns an ``OSError`` inside into the one line that a user can act on.

    Raises:
        WriteError: in place of any ``OSError``; it names ``path``.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(str(path), f"cannot be written ({error.strerror}); choose another out=") from error


def numbered(paths: Iterable[Path]) -> list[Path]:
    """Returns ``paths`` in order, numbers in them by their size: ``2_b`` before ``10_a``."""

    def parts(path: Path) -> list[str | int]:
        return [int(part) if part.isdigit() else part for part in split(r"(\d+)", str(path))]

    return sorted(paths, key=parts)


def folder(path: Path) -> Path:
    """Returns ``path``, made with its parents where it is not there.

    Raises:
        WriteError: if it cannot be made.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write(path: Path, data: bytes) -> None:
    """Puts ``data`` at ``path``, so that a reader finds the old file or the new one, also after a power cut.

    The temporary file lies in the same folder: a rename is atomic within one file system only.

    Raises:
        WriteError: if it cannot be written; what was at ``path`` is untouched.
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
    """Makes the renames in folder ``path`` last."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def tidy(path: Path) -> None:
    """Removes the temporary files that a killed process left in folder ``path``; its lock holder calls this."""
    for leftover in path.rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes ``content`` as indented JSON."""
    write(path, (json.dumps(content, indent=1, allow_nan=True) + "\n").encode())


def read_json(path: Path) -> Any:
    """Returns what ``path`` holds.

    Raises:
        InputError: if it is not there or not JSON.
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
    """Writes a state of tensors and plain values, sealed with its sha256; returns that, in hex."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    seal = hashlib.sha256(payload)
    write(path, SEAL + seal.digest() + payload)
    return seal.hexdigest()


def load(path: Path) -> tuple[dict[str, Any], str]:
    """Returns the state that ``save`` wrote, its tensors on the CPU, and its sha256 in hex.

    Raises:
        InputError: if the file is cut short or altered; a flipped bit loads silently in plain torch files.
    """
    import torch

    data = path.read_bytes()
    seal, payload = data[len(SEAL) : len(SEAL) + 32], data[len(SEAL) + 32 :]
    if not data.startswith(SEAL) or hashlib.sha256(payload).digest() != seal:
        raise InputError(str(path), "is damaged (its sha256 differs); delete it to train this stage anew")
    return torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True), seal.hex()
