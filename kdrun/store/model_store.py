"""The store of trained models: each model is trained once and shared by all runs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout

from kdrun.errors import InputError
from kdrun.store import files
from kdrun.store.format import FORMAT
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
                    files.write_json(manifest, {**content, "key": key(fields), "fields": fields})
        return folder, self._verified(folder, files.read_json(manifest))

    def _locked(self, folder: Path) -> AcquireReturnProxy[Any]:
        """Acquires the lock of ``folder`` and returns it as a context manager; sends a notice every 30 s of waiting."""
        lock, noticed = FileLock(files.folder(self.root) / f".{folder.name}.lock"), float("-inf")
        while True:
            try:
                return lock.acquire(timeout=0.2)
            except Timeout:
                if time.monotonic() - noticed >= 30:
                    self.notice(f"waiting for another process that trains {folder.name}")
                    noticed = time.monotonic()
            self.interrupt.check(f"waiting for {folder.name}")

    def _verified(self, folder: Path, manifest: Manifest) -> Manifest:
        weights = folder / "model.safetensors"
        if not weights.is_file() or files.digest(weights) != manifest["sha256"]:
            raise InputError(str(weights), f"is damaged (its sha256 differs); delete {folder} to train it anew")
        return manifest


def differences(here: dict[str, Any], there: dict[str, Any]) -> str:
    """Returns how two environments differ, as ``threads 1 here, 2 there``; empty if all shared entries are equal."""
    names = [name for name in here if name in there and here[name] != there[name]]
    return ", ".join(f"{name} {here[name]} here, {there[name]} there" for name in names)
