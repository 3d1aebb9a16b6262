"""The tables in docs/performance.md: each section between markers of its own, with machine, date and load."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Returns a table in Markdown; a text in a cell may hold anything but line ends."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def machine() -> str:
    """Returns one sentence about this machine."""
    try:
        (name,) = set(re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
    except (OSError, ValueError):
        name = platform.processor() or platform.machine()
    system = f"{platform.system()}, Python {platform.python_version()}, torch {version('torch')}"
    return f"{name}, {os.cpu_count()} cores, one thread used; {system}"


def load() -> str:
    """Returns how many processes wait for a core, the mean of the last 1, 5 and 15 minutes."""
    return ", ".join(f"{each:.1f}" for each in os.getloadavg())


def block(content: str, command: str, before: str) -> str:
    """Returns a section's text: when and where it was measured, and its tables."""
    measured = f"{date.today()}, `{command}`. {machine()}. Load before: {before}; after: {load()}."
    return f"{measured}\n\n{content}"


def replaced(page: str, name: str, text: str) -> str:
    """Returns the page with ``text`` between the markers of section ``name``.

    Raises:
        ValueError: if the page has not exactly one pair of its markers.
    """
    begin, end = f"<!-- bench {name} -->", f"<!-- end {name} -->"
    head, *rest = page.split(begin)
    if len(rest) != 1 or rest[0].count(end) != 1:
        raise ValueError(f"{PAGE.name} needs one pair of markers {begin} {end}")
    return f"{head}{begin}\n{text}\n{end}{rest[0].partition(end)[2]}"
