"""A cache of decoded data sets: the tensors are stored beside the files, so that the files are decoded once."""

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
"""The format of the cache; increase it when the same files give other tensors."""

PARTS = ("train", "test")

LATER = {field.name for field in fields(Source)} - {"channels", "size", "classes"} | {"root", "download"}
"""Arguments of sources that do not change what is read from the files, so they are not part of the cache's key."""


def cached(
    source: Source, folder: Path, parts: Sequence[Path], parse: Callable[[], tuple[Split, Split]]
) -> tuple[Split, Split]:
    """Returns the result of ``parse``: from the cache if none of the files has changed since it was stored.

    Also sets ``names``, ``notes`` and ``digest`` of ``source``. A file counts as changed if its size or modification
    time differs. The sha256 of the cache is checked; if it is wrong, the files are parsed again.

    Args:
        source: the data set; its arguments must be the same as those of the stored result.
        folder: the folder of the cache; if it is not writable, nothing is stored.
        parts: all files that ``parse`` reads.
        parse: reads the files and returns the training and the test split.

    Returns:
        The training and the test split.
    """
    path = folder / f".kdrun-{_key(source)}.safetensors"
    stamp = _stamp(folder, parts)
    kept = _load(path, stamp, source)
    if kept is not None:
        return kept
    train, test = parse()
    source.digest = train.digest()
    facts = {"stamp": stamp, "digests": [source.digest, test.digest()], "names": source.names, "notes": source.notes}
    with contextlib.suppress(WriteError):  # the data may be in a folder that only its owner can write to
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
