"""Edits of a run folder: keys of its records changed, files replaced by others, by folders, links and pipes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

Change = Callable[[Path], object]

EVIL = (
    "import os\nos.system('touch hit')\nopen('hit', 'w').close()\n\n\nclass X:\n"
    "    def __init__(self, *args, **words):\n        open('hit', 'w').close()\n"
)


def config(**changes: Any) -> Change:
    """Changes the recorded config: dotted keys, ``_`` in place of the dots."""

    def change(run: Path) -> None:
        path = run / "config.yaml"
        content = yaml.safe_load(path.read_text())
        for key, value in changes.items():
            node, *rest = key.split("__")
            if rest:
                content[node][rest[0]] = value
            else:
                content[node] = value
        path.write_text(yaml.safe_dump(content))

    return change


def without(name: str, *keys: str) -> Change:
    def change(run: Path) -> None:
        path = run / name
        content = yaml.safe_load(path.read_text())
        for key in keys:
            content.pop(key, None)
        path.write_text(yaml.safe_dump(content) if name.endswith("yaml") else json.dumps(content))

    return change


def about(**changes: Any) -> Change:
    def change(run: Path) -> None:
        path = run / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def text(name: str, content: str | bytes) -> Change:
    return lambda run: (run / name).write_bytes(
        content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    )


def gone(*names: str) -> Change:
    return lambda run: [(run / name).unlink() for name in names]


def folder(name: str) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return change


def link(name: str, target: str) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)

    return change


def stage(content: Any) -> Change:
    """Replaces a stage by one that has the right seal and other content."""

    def change(run: Path) -> None:
        from kdrun.store import files

        for path in (run / "stages").glob("*.pt"):
            files.save(path, content)

    return change


def resealed_pickle(run: Path) -> None:
    """Replaces a stage by a pickle that calls os.system, with the right seal."""
    import hashlib

    payload = b"cos\nsystem\n(S'touch hit'\ntR."
    for path in (run / "stages").glob("*.pt"):
        path.write_bytes(b"kdrun1\n" + hashlib.sha256(payload).digest() + payload)


def fifo(name: str) -> Change:
    def change(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return change
