"""What was made of a data set's files, kept beside them, so that it is made once."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from kdrun.data.source import Source, Split
from kdrun.errors import WriteError
from kdrun.store import files

FORMAT = 1
"""To be raised when the same files are made into something else."""

PARTS = ("train", "test")

LATER = {field.name for field in fields(Source)} - {"channels", "size", "classes"} | {"root", "download"}
"""Arguments of sources that do not change what is read, only what becomes of it."""


def cached(
    source: Source, folder: Path, parts: Sequence[Path], parse: Callable[[], tuple[Split, Split]]
) -> tuple[Split, Split]:
    """Returns what ``parse`` makes of the files ``parts``, from the last time if none of them has changed since.

    Also sets ``names``, ``notes`` and ``digest`` of ``source``. A file counts as changed if its size or its time
    of modification is another. What was kept is checked by its sha256, and made anew if that is wrong.

    Args:
        source: its arguments are part of what must be the same.
        folder: where the result is kept; if it cannot be written to, nothing is kept.
        parts: all files that ``parse`` reads.
        parse: reads them.
    """
    path = folder / f".kdrun-{_key(source)}.safetensors"
    stamp = _stamp(folder, parts)
    kept = _load(path, stamp, source)
    if kept is not None:
        return kept
    train, test = parse()
    source.digest = train.digest()
    facts = {"stamp": stamp, "digests": [source.digest, test.digest()], "names": source.names, "notes": source.notes}
    with contextlib.suppress(WriteError):  # data may well lie where only its owner writes
        files.write(path, save(_tensors(train, test), _sealed(json.dumps(facts))))
    return train, test


def _tensors(train: Split, test: Split) -> dict[str, Tensor]:
    splits = zip(PARTS, (train, test), strict=True)
    return {f"{part}.{name}": tensor for part, split in splits for name, tensor in split._asdict().items()}


def _sealed(facts: str) -> dict[str, str]:
    return {"facts": facts, "sha256": hashlib.sha256(facts.encode()).hexdigest()}


def _key(source: Source) -> str:
    settings = {
        each.name: getattr(source, each.name) for each in fields(source) if each.init and each.name not in LATER
    }
    text = json.dumps([FORMAT, type(source).__qualname__, {**settings, "size": source.native}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _stamp(folder: Path, parts: Sequence[Path]) -> str:
    seen = hashlib.sha256()
    for path in parts:
        state = path.stat()
        seen.update(json.dumps([str(path.relative_to(folder)), state.st_size, state.st_mtime_ns]).encode())
    return seen.hexdigest()


def _load(path: Path, stamp: str, source: Source) -> tuple[Split, Split] | None:
    try:
        with safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            facts = json.loads(told["facts"]) if told == _sealed(told.get("facts", "")) else {}
            if facts.get("stamp") != stamp:
                return None
            train, test = (Split(*(file.get_tensor(f"{part}.{name}") for name in Split._fields)) for part in PARTS)
    except (OSError, SafetensorError):
        return None
    if [train.digest(), test.digest()] != facts["digests"]:
        return None
    source.names, source.notes, source.digest = facts["names"], facts["notes"], facts["digests"][0]
    # tensors as loaded are views of the file, and a file that goes away in mid-run would take them along; the
    # training images are copied when they are split, the test images here
    return train, Split(test.images.clone(), test.targets.clone())
