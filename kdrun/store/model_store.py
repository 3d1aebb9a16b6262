"""The store of trained models: each model is trained once and shared by all runs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from kdrun.config.values import check_value
from kdrun.errors import ConfigError, InputError
from kdrun.store import files
from kdrun.store.format import FORMAT, RECORD_FORMAT
from kdrun.train.runtime import Interrupt

Manifest = dict[str, Any]
Notice = Callable[[str], None]


def key(fields: dict[str, Any]) -> str:
    """Returns the sha256, in hex, of ``fields`` and the format number: the key of the model that they determine."""
    text = json.dumps({"format": FORMAT, **fields}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class ModelStore:
    """Trained models in ``root``, each in a folder ``NAME-KEY``; manifest.json is written last, when it is complete.

    Args:
        root: the folder that holds all models.
        interrupt: ends the wait for another process.
        notice: called with one line for the user when the store has to wait.
    """

    def __init__(self, root: Path, interrupt: Interrupt, notice: Notice) -> None:
        self.root, self.interrupt, self.notice = root, interrupt, notice

    def get(self, name: str, fields: dict[str, Any], train: Callable[[Path], Manifest]) -> tuple[Path, Manifest]:
        """Returns the folder and the manifest of a model; trains the model first if the store does not have it.

        If another process trains the same model, this one waits for it. If that process was killed, this one goes on
        from its last checkpoint.

        Args:
            name: the name of the model.
            fields: everything that the trained model depends on.
            train: trains the model in a folder and returns its manifest.

        Raises:
            InputError: if the weights on disk are damaged.
            Interrupted: if a signal arrives during the wait.
        """
        folder = self.root / f"{name}-{key(fields)[:12]}"
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            with self._locked(folder):
                if not manifest.is_file():
                    content = train(folder)
                    about = {"format": RECORD_FORMAT, "key": key(fields), "fields": fields}
                    files.write_json(manifest, {**content, **about})
        return folder, verified(folder, key(fields))

    def _locked(self, folder: Path) -> AcquireReturnProxy[Any]:
        """Acquires the lock of ``folder`` and returns it as a context manager; sends a notice every 30 s of waiting."""
        path, noticed = files.folder(self.root) / f".{folder.name}.lock", float("-inf")
        lock = FileLock(path, fallback_to_soft=False)  # a soft lock would outlive a killed process
        while True:
            with files.writing(path):
                try:
                    return lock.acquire(timeout=0.2)
                except Timeout:  # caught inside `writing`, because it is an OSError too
                    pass
            if time.monotonic() - noticed >= 30:
                self.notice(f"waiting for another process that trains {folder.name}")
                noticed = time.monotonic()
            self.interrupt.check(f"waiting for {folder.name}")


KINDS = {"files": dict, "scores": dict, "environment": dict, "fields": dict, "key": str}
"""The fields of a manifest, and their types."""


def verified(folder: Path, expected: str) -> Manifest:
    """Returns the manifest of the model in ``folder``, after a check of it and of the weights against their sha256.

    Raises:
        InputError: if one of them is damaged, or if it is not the model whose key is ``expected``.
    """
    path, weights = folder / "manifest.json", folder / "model.safetensors"
    anew = f"delete {folder} to train it anew"
    try:
        manifest = files.read_json(path)
        for name, kind in KINDS.items():
            check_value(manifest.get(name), kind, name)
    except ConfigError as error:
        raise InputError(str(path), f"is damaged ({error}); {anew}") from error
    except InputError as error:
        raise InputError(str(path), f"{error.what}; {anew}") from error
    if not all(isinstance(score, int | float) for score in manifest["scores"].values()):
        raise InputError(str(path), f"is damaged (scores: not numbers); {anew}")
    if manifest["key"] != expected or key(manifest["fields"]) != expected:
        raise InputError(str(path), f"is of another model; {anew}")
    if not weights.is_file() or files.digest(weights) != manifest["files"].get(weights.name):
        raise InputError(str(weights), f"is damaged (its sha256 differs); {anew}")
    return manifest


def differences(here: dict[str, Any], there: dict[str, Any]) -> str:
    """Returns how two environments differ, as ``threads 1 here, 2 there``; empty if all shared entries are equal."""
    names = [name for name in here if name in there and here[name] != there[name]]
    return ", ".join(f"{name} {here[name]} here, {there[name]} there" for name in names)
