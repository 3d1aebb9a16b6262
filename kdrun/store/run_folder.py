"""What the folder of a run says of itself: its config, and what was started. Reading it needs no torch."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from kdrun.config.root import check_root
from kdrun.config.values import check_value, show
from kdrun.config.yaml_text import BYTES, parse_yaml
from kdrun.errors import ConfigError, InputError, WriteError
from kdrun.store import files
from kdrun.store.format import check_format

CONFIG, ABOUT = "config.yaml", "run.json"

SEAL = re.compile(rb"^# sha256 of the lines above: ([0-9a-f]{64})\n\Z", re.MULTILINE)
"""The last line of a config.yaml."""

KINDS = {"overrides": list[str], "versions": dict, "environment": dict}
"""The fields of run.json that a resume reads, and their types."""

MAY_DIFFER = ("epochs", "device", "threads", "resume", "out", "name", "trust", "dry_run")
"""Keys in which the recorded config of a run may differ from the config with which it goes on."""

LEFTOVERS = (".lock", CONFIG, ABOUT, "error.txt", "summary.json")
"""All that a run can leave that ended before its record was whole; it has trained nothing."""


def is_whole(folder: Path) -> bool:
    """Whether ``folder`` has the record of a run: it is written before anything is trained."""
    return (folder / CONFIG).is_file() and (folder / ABOUT).is_file()


def is_free(folder: Path) -> bool:
    """Whether a new run may have ``folder``: it does not exist, or holds only what is left of one that has not begun.

    Raises:
        WriteError: if there can be no such folder, or it cannot be read.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return True
    except OSError as error:
        raise WriteError(str(folder), f"cannot be written ({error.strerror}); choose another out=") from None
    others = [name for name in names if name not in LEFTOVERS and not re.fullmatch(r"\..*\.tmp", name)]
    return not others and not is_whole(folder)


def taken(folder: Path) -> ConfigError:
    """Returns the error that a new run cannot have ``folder``."""
    way_out = (
        f", or go on with resume={folder}" if is_whole(folder) else "; what a sweep has trained is not trained again"
    )
    return ConfigError("name", f"{folder.name!r} is taken; choose another{way_out}")


def sealed(text: str) -> bytes:
    """Returns the lines of a config.yaml with their sha256 as a last line."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}# sha256 of the lines above: {digest}\n".encode()


def config_text(folder: Path) -> bytes:
    """Returns the bytes of the config.yaml in ``folder``, after a check against the sha256 in its last line.

    Raises:
        InputError: if there is none, or it was cut short or altered.
    """
    path = folder / CONFIG
    data = files.read_bytes(path, BYTES)
    seal = SEAL.search(data)
    if not seal or hashlib.sha256(data[: seal.start()]).hexdigest() != seal[1].decode():
        what = "is damaged or was edited (its last line is not the sha256 of the lines above)"
        raise InputError(str(path), f"{what}; restore it, or start a new run")
    return data


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the config recorded in ``folder``, as plain values; ``${...}`` stays text.

    Raises:
        InputError: if it cannot be read, was cut short or altered, or is not the config of a run.
    """
    data = config_text(folder)
    try:
        return parse_yaml(data, str(folder / CONFIG))
    except ConfigError as fault:
        raise InputError(fault.where, f"{fault.what}; restore it, or start a new run") from fault


def read_run_config(folder: Path) -> dict[str, Any]:
    """Returns the config recorded in ``folder`` by ``kdrun train``, with all keys of a run.

    Raises:
        InputError: as ``read_config`` does, and if a key is unknown, missing, or does not take its value.
    """
    config = read_config(folder)
    try:
        check_root(config)
    except ConfigError as fault:
        raise InputError(str(folder / CONFIG), f"{fault}; restore it, or start a new run") from fault
    return config


def read_about(folder: Path) -> dict[str, Any]:
    """Returns the content of run.json in ``folder``.

    Raises:
        InputError: if it cannot be read, was cut short or altered, is of another format, or lacks a field.
    """
    path = folder / ABOUT
    about = files.read_json(path)
    check_format(folder, about)
    try:
        for name, kind in KINDS.items():
            check_value(about.get(name), kind, name)
        check_value(about.get("fields"), dict | None, "fields")
    except ConfigError as fault:
        raise InputError(str(path), f"{fault}; restore it, or start a new run") from fault
    return about


def recorded_digest(path: Path) -> str | None:
    """Returns the sha256 of ``path`` that the finished training in its folder has recorded; None if it has none.

    Raises:
        InputError: if the summary.json or manifest.json beside it is damaged.
    """
    for name in ("summary.json", "manifest.json"):
        if (path.parent / name).is_file():
            known = files.read_json(path.parent / name).get("files")
            if isinstance(known, dict) and isinstance(known.get(path.name), str):
                return str(known[path.name])
    return None


def refuse_another(folder: Path, config: dict[str, Any]) -> None:
    """Refuses to go on in a ``folder`` that holds a run with another config; see ``MAY_DIFFER``.

    Raises:
        InputError: naming the first key that differs.
    """
    if not is_whole(folder):
        return
    read_about(folder)
    before = read_config(folder)
    for key in [*before, *(key for key in config if key not in before)]:
        if key not in MAY_DIFFER and before.get(key) != config.get(key):
            was, now = (show(named(node.get(key))) for node in (before, config))
            raise InputError(str(folder), f"holds another run ({key} was {was}, now {now}); choose another name=")


def named(value: Any) -> Any:
    """Returns the name of a node; any other value unchanged."""
    return value["name"] if isinstance(value, dict) and "name" in value else value


def refuse_other_fields(folder: Path, fields: dict[str, Any]) -> None:
    """Refuses to go on in a ``folder`` whose training depends on other ``fields``; the number of epochs may grow.

    Raises:
        InputError: naming the first difference.
    """
    if not (folder / ABOUT).is_file():
        return
    there: dict[str, Any] = read_about(folder).get("fields") or fields
    for key, value in json.loads(json.dumps(fields)).items():  # tuples become lists, as they are in run.json
        old = there.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            parts = [part for part in value if value[part] != old.get(part) and not more_epochs(part, old, value)]
            what = [f"{key}.{part} was {show(old.get(part))}, now {show(value[part])}" for part in parts]
        else:
            what = [] if value == old else [f"another {key}"]
        if what:
            raise InputError(str(folder), f"holds another training ({what[0]}); choose another folder")


def more_epochs(part: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    return part == "epochs" and isinstance(old.get(part), int) and bool(old[part] <= new[part])
