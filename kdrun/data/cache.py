"""A cache of decoded data sets: the tensors are stored in a private folder, so that the files are decoded once."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdrun.data.source import Source, Split
from kdrun.errors import WriteError
from kdrun.store import files

FORMAT = 2
"""The format of the cache; increase it when the same files give other tensors."""

PARTS = ("train", "test")

LATER = {field.name for field in fields(Source)} - {"channels", "size", "classes"} | {"root", "download"}
"""Arguments of sources that do not change what is read from the files, so they are not part of the cache's key."""


def place() -> Path:
    """Returns the folder of the cache: ``KDRUN_CACHE``, or kdrun's part of the user's cache folder.

    It is never beside the data: a cache that came with them could hold any images.
    """
    if own := os.environ.get("KDRUN_CACHE"):
        return Path(own).expanduser() / "data"
    users = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(users) if os.path.isabs(users) else Path("~/.cache").expanduser()) / "kdrun" / "data"


def cached(
    source: Source, folder: Path, parts: Sequence[Path], parse: Callable[[], tuple[Split, Split]]
) -> tuple[Split, Split]:
    """Returns the result of ``parse``: from the cache if none of the files has changed since it was stored.

    Also sets ``names``, ``notes`` and ``digest`` of ``source``. A file counts as changed if its size, its inode or one
    of its times differs. The sha256 of the cache is checked; if it is wrong, the files are parsed again.

    Args:
        source: the data set; its arguments must be the same as those of the stored result.
        folder: the folder of the files.
        parts: all files that ``parse`` reads.
        parse: reads the files, checks that they are the published ones if the source is told to, and returns the
            training and the test split.

    Returns:
        The training and the test split.
    """
    path, stamp = place() / f"{_key(source, folder)}.safetensors", _stamp(parts)
    stored = _load(path, stamp, source) if _is_trusted(path) else None
    if stored is not None:
        return stored
    train, test = parse()
    source.digest = train.digest()
    facts = {"stamp": stamp, "digests": [source.digest, test.digest()], "names": source.names, "notes": source.notes}
    try:
        _make_private(path.parent)
        files.write(path, save(_tensors(train, test), _sealed(json.dumps(facts))))
    except (OSError, WriteError):
        what = f"what was decoded is not kept: {path.parent} cannot be written, or is open to others"
        source.notes = [*source.notes, f"{what}; set KDRUN_CACHE to a folder of yours"]
    return train, test


def _make_private(folder: Path) -> None:
    """Creates the folder of the cache, for its owner alone.

    Raises:
        OSError: if it cannot be created, or belongs to others, or others can write to it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if not _is_own(state, stat.S_ISDIR) or state.st_mode & 0o022:
        raise PermissionError


def _is_own(state: os.stat_result, is_kind: Callable[[int], bool]) -> bool:
    return is_kind(state.st_mode) and state.st_uid == os.geteuid()


def _is_trusted(path: Path) -> bool:
    """Returns whether ``path`` is a file of this user in a folder of this user, to which no other can write."""
    try:
        folder, file = path.parent.lstat(), path.lstat()
    except OSError:
        return False
    return _is_own(folder, stat.S_ISDIR) and not folder.st_mode & 0o022 and _is_own(file, stat.S_ISREG)


def _tensors(train: Split, test: Split) -> dict[str, Tensor]:
    splits = zip(PARTS, (train, test), strict=True)
    return {f"{part}.{name}": tensor for part, split in splits for name, tensor in split._asdict().items()}


def _sealed(facts: str) -> dict[str, str]:
    return {"facts": facts, "sha256": hashlib.sha256(facts.encode()).hexdigest()}


def _key(source: Source, folder: Path) -> str:
    settings = {
        each.name: getattr(source, each.name) for each in fields(source) if each.init and each.name not in LATER
    }
    what = [FORMAT, type(source).__qualname__, {**settings, "size": source.native}, os.path.realpath(folder)]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]


def _stamp(parts: Sequence[Path]) -> str:
    seen = hashlib.sha256()
    for path in parts:
        try:
            state = path.stat()
            facts = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]
        except OSError as error:  # the parsing will tell what it means
            facts = [error.errno or 0]
        seen.update(json.dumps([os.path.abspath(path), *facts]).encode())
    return seen.hexdigest()


def _load(path: Path, stamp: str, source: Source) -> tuple[Split, Split] | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            facts = json.loads(metadata["facts"]) if metadata == _sealed(metadata.get("facts", "")) else {}
            if facts.get("stamp") != stamp:
                return None
            train, test = (Split(*(file.get_tensor(f"{part}.{name}") for name in Split._fields)) for part in PARTS)
    except (OSError, SafetensorError):
        return None
    if [train.digest(), test.digest()] != facts["digests"]:
        return None
    source.names, source.notes, source.digest = facts["names"], facts["notes"], facts["digests"][0]
    # loaded tensors are views of the file, and would be lost if the file disappeared during the run; the training
    # images are copied when they are split, the test images here
    return train, Split(test.images.clone(), test.targets.clone())
