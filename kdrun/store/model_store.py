"""The store of trained models: each is trained once, whoever asks first, and published whole."""

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
from kdrun.store.record import FORMAT
from kdrun.train.runtime import Interrupt

Manifest = dict[str, Any]
Notice = Callable[[str], None]


def key(fields: dict[str, Any]) -> str:
    """Returns the sha256 of ``fields`` and of the format number, in hex: the name of what they make."""
    text = json.dumps({"format": FORMAT, **fields}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """Trained models in ``root``, a folder ``NAME-KEY`` each; its manifest.json, written last, says it is whole.

    Args:
        root: the folder of all.
        interrupt: ends the waiting for another process.
        notice: hears what takes long or looks odd, a line each.
    """

    def __init__(self, root: Path, interrupt: Interrupt, notice: Notice) -> None:
        self.root, self.interrupt, self.notice = root, interrupt, notice

    def get(self, name: str, fields: dict[str, Any], train: Callable[[Path], Manifest]) -> tuple[Path, Manifest]:
        """Returns the folder and manifest of the model made by ``fields``, trained by ``train`` where there is none.

        Whoever comes second waits for the first, and takes over where it was killed.

        Raises:
            InputError: if its weights are not those that were published.
            Interrupted: if a signal came while waiting.
        """
        folder = self.root / f"{name}-{key(fields)[:12]}"
        manifest = folder / "manifest.json"
        if not manifest.is_file():
            with self._alone(folder):
                if not manifest.is_file():
                    content = train(folder)
                    files.write_json(manifest, {**content, "key": key(fields), "fields": fields})
        return folder, self._verified(folder, files.read_json(manifest))

    def _alone(self, folder: Path) -> AcquireReturnProxy[Any]:
        """Returns the held lock of ``folder``, to be left as a context; says every 30 s what it waits for."""
        lock, told = FileLock(files.folder(self.root) / f".{folder.name}.lock"), float("-inf")
        while True:
            try:
                return lock.acquire(timeout=0.2)
            except Timeout:
                if time.monotonic() - told >= 30:
                    self.notice(f"waiting for another process that trains {folder.name}")
                    told = time.monotonic()
            self.interrupt.check(f"waiting for {folder.name}")

    def _verified(self, folder: Path, manifest: Manifest) -> Manifest:
        weights = folder / "model.safetensors"
        if not weights.is_file() or files.digest(weights) != manifest["sha256"]:
            raise InputError(str(weights), f"is damaged (its sha256 differs); delete {folder} to train it anew")
        return manifest


def differences(here: dict[str, Any], there: dict[str, Any]) -> str:
    """Returns how two environments differ, ``threads 1 here, 2 there``; empty where they agree in what both tell."""
    odd = [name for name in here if name in there and here[name] != there[name]]
    return ", ".join(f"{name} {here[name]} here, {there[name]} there" for name in odd)
