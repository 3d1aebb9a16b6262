"""Writes files whole or not at all, also in a power cut, and checks them when they are read."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from re import split
from typing import Any

from kdrun.errors import InputError, WriteError
from kdrun.models import torchfile
from kdrun.store.faults import point
from kdrun.store.format import RECORD_FORMAT

SEAL = b"kdrun1\n"

JSON_BYTES = 16 << 20
"""Largest JSON file that is read: one has some kilobytes."""

NO_DIGEST = "0" * 64
ZEROS = f'"seal": "{NO_DIGEST}"\n}}\n'.encode()
JSON_SEAL = re.compile(rb'"seal": "([0-9a-f]{64})"\n}\n\Z')
"""The end of a JSON file: its last field is the sha256 of the whole file with zeros in place of this sha256."""

WAYS_OUT = {
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "end other programs, or raise the limit on open files",
    errno.ENOLCK: "choose an out= on a file system with locks",
    errno.ENOSYS: "choose an out= on a file system with locks",
    errno.EOPNOTSUPP: "choose an out= on a file system with locks",
}
"""What to do about an error of the system while writing, where another ``out=`` is not the way out."""


def way_out(error: OSError) -> str:
    """Returns what to do about ``error`` where the file is not to blame, as the end of a message; else nothing."""
    return f"; {WAYS_OUT[error.errno]}" if error.errno in WAYS_OUT else ""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an ``OSError`` in the block into an error of one line that names ``path`` and the way out.

    Raises:
        WriteError: in place of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        what = f"cannot be written ({error.strerror or error}){way_out(error) or '; choose another out='}"
        raise WriteError(str(path), what) from error


def numbered(paths: Iterable[Path]) -> list[Path]:
    """Returns ``paths`` sorted by name, with numbers in the names sorted by value: ``2_b`` before ``10_a``."""

    def parts(path: Path) -> list[str | int]:
        return [int(part) if part.isdecimal() else part for part in split(r"(\d+)", str(path))]

    return sorted(paths, key=parts)


def folder(path: Path) -> Path:
    """Creates the folder ``path`` and its parents if they do not exist; returns ``path``.

    Raises:
        WriteError: if it cannot be created.
    """
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write(path: Path, data: bytes, size: int = 0) -> None:
    """Writes ``data`` to ``path`` so that a reader finds the old file or the new one, also after a power cut.

    If it is shorter than ``size``, the rest is a hole: it reads as zeros and takes no disk until it is written.

    The temporary file is in the same folder: a rename is atomic only within one file system. The folder must exist: one
    that was moved away while a run works in it must not be made again.

    Raises:
        WriteError: if it cannot be written; the old file at ``path`` stays as it was.
    """
    with writing(path):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            point("write")
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.truncate(max(size, len(data)))
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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` as indented JSON with its sha256 as a last field, ``seal``."""
    text = json.dumps({**content, "seal": NO_DIGEST}, indent=1, allow_nan=True) + "\n"
    before, _, after = text.rpartition(NO_DIGEST)
    write(path, f"{before}{hashlib.sha256(text.encode()).hexdigest()}{after}".encode())


def read_bytes(path: Path, most: int) -> bytes:
    """Returns the bytes of a regular file of at most ``most`` bytes; a pipe is not waited for.

    Raises:
        InputError: if it cannot be read, or is larger.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise InputError(str(path), "is not a file")
        if state.st_size > most:
            raise InputError(str(path), f"has {state.st_size} bytes, too many for such a file (at most {most})")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(str(path), "no such file") from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror}){way_out(error)}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Returns the content of the JSON file that ``write_json`` wrote to ``path``, without its seal.

    A file of an older format had no seal: it is returned as it is, and ``check_format`` refuses it.

    Raises:
        InputError: if the file does not exist, is cut short or altered, or is no JSON object.
    """
    data = read_bytes(path, JSON_BYTES)
    seal = JSON_SEAL.search(data)
    if seal and hashlib.sha256(JSON_SEAL.sub(ZEROS, data)).hexdigest() != seal[1].decode():
        raise damaged(path, "its sha256 differs")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise damaged(path, "it is not JSON") from None
    if not isinstance(content, dict):
        raise damaged(path, "it is no JSON object")
    if seal:
        del content["seal"]
    elif "seal" in content or content.get("format", 1) not in range(1, RECORD_FORMAT):
        raise damaged(path, "it does not end with its sha256")
    return content


def damaged(path: Path, why: str) -> InputError:
    """Returns the error that the JSON file at ``path`` is damaged, with the way out where its name tells it."""
    ways = {
        "summary.json": "; resume the run to have it measured anew",
        "run.json": "; restore it, or start a new run",
    }
    return InputError(str(path), f"is damaged ({why}){ways.get(path.name, '')}")


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

    try:
        with path.open("rb") as file:
            head, begin = file.read(len(SEAL) + 32), file.tell()
            seal, is_archive = head[len(SEAL) :], torchfile.has_both_ends(file)
            if head.startswith(SEAL) and not is_archive:  # asked before it is hashed: it may be of any size
                raise InputError(str(path), f"is damaged, or is no checkpoint of kdrun; {ANEW}")
            file.seek(begin)
            if not (head.startswith(SEAL) and hashlib.file_digest(file, "sha256").digest() == seal):
                raise InputError(str(path), f"is damaged (its sha256 differs); {ANEW}")
            file.seek(begin)
            payload = file.read()
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror}){way_out(error)}") from None
    try:
        torchfile.check(io.BytesIO(payload), str(path))
        state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # a sealed file from elsewhere can hold anything; torch advises to run its code
        raise InputError(str(path), f"is no checkpoint of kdrun; {ANEW}") from error
    if not isinstance(state, dict):
        raise InputError(str(path), f"is no checkpoint of kdrun; {ANEW}")
    return state, seal.hex()


ANEW = "delete it to train this stage anew"
