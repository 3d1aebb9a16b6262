"""Names in tables, pages and figures: each is shown as it is, and none acts as markup, as a formula or as a path."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from rich.text import Text

from kdrun.errors import printable

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
ACTIVE = re.compile(r"[\\`*\[\]|~$#@&<>]|(?<!\w)_|_(?!\w)|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)
"""Characters with a meaning in markdown: emphasis, code, links and addresses, cells, headings, mathematics, HTML."""

FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")  # noqa: RUF001
"""The characters with which a spreadsheet's formula begins."""

LETTERS = 60
"""The most letters of a name in the name of a file."""


def plain(text: str, style: str = "") -> Text:
    """Returns ``text`` for a table on a terminal; brackets and colons in it mean nothing."""
    return Text(printable(text), style=style)


def markdown(text: str) -> str:
    """Returns ``text`` as one line of markdown that shows it."""
    return ACTIVE.sub(lambda match: ENTITIES.get(match[0], f"\\{match[0]}"), printable(text))


def caption(text: str) -> str:
    """Returns ``text`` for a figure, where dollars would enclose a formula."""
    return printable(text).replace("$", r"\$")


def csv_text(rows: list[dict[str, Any]]) -> str:
    """Returns ``rows`` as csv with a line of headings; what a row does not have is empty."""
    safe = [{cell(key): cell(value) for key, value in row.items()} for row in rows]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in safe for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(safe)
    return file.getvalue()


def cell(value: Any) -> Any:
    """Returns ``value`` for csv: numbers as they are; text that a spreadsheet would compute begins with ``'``."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(FORMULAS) else text


def file_part(name: str) -> str:
    """Returns ``name`` as a part of the name of a file: shortened, and other characters than letters as dashes."""
    return re.sub(r"[^\w.=,+-]", "-", name)[:LETTERS]
