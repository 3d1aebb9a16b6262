"""Puts values in quotes if Hydra's grammar does not accept them without."""

from __future__ import annotations

SPECIAL = "',[]{}$"

PATHS = ("resume", "teacher.checkpoint", "out", "dataset.root")
"""Keys of files and folders: a sweep's folders have names like ``1_kd_seed=1``, which Hydra accepts only in quotes."""


def takes_text(override: str) -> bool:
    """Whether ``override`` may be put in quotes automatically: its value can only be text."""
    return not override.isascii() or override.partition("=")[0].lstrip("+") in PATHS


def quote(override: str) -> str:
    """Returns ``override`` with its value in quotes; empty if the value is empty or has special characters."""
    key, _, value = override.partition("=")
    special = "'$" if key.lstrip("+") in PATHS else SPECIAL
    return f"{key}={quoted(value)}" if value and not set(value) & set(special) else ""


def quoted(text: str) -> str:
    """Returns ``text`` as one quoted value of Hydra's grammar."""
    return "'" + text.replace("'", "\\'") + "'"
