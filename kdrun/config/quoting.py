"""Values in quotes, where Hydra's grammar does not take them as they are."""

from __future__ import annotations

SPECIAL = "',[]{}$"

PATHS = ("resume", "teacher.checkpoint", "out", "dataset.root")
"""Keys of files and folders: a sweep's folders are called ``1_kd_seed=1``, which Hydra takes in quotes alone."""


def takes_text(override: str) -> bool:
    """Whether ``override`` may be put in quotes unasked: what it says can only be text."""
    return not override.isascii() or override.partition("=")[0].lstrip("+") in PATHS


def quote(override: str) -> str:
    """Returns ``override`` with its value in quotes; empty where it has letters that mean something."""
    key, _, value = override.partition("=")
    special = "'$" if key.lstrip("+") in PATHS else SPECIAL
    return f"{key}={quoted(value)}" if value and not set(value) & set(special) else ""


def quoted(text: str) -> str:
    """Returns ``text`` as one quoted value of Hydra's grammar."""
    return "'" + text.replace("'", "\\'") + "'"
