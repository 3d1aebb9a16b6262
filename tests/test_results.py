"""docs/results.md and docs/log: a figure whose command cannot be run is no result."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tiny import COMPOSER

from kdrun.config.sweep import jobs
from kdrun.run.assembly import check_nodes

DOCS = Path(__file__).parent.parent / "docs"
PAGE, LOGS = DOCS / "results.md", sorted((DOCS / "log").glob("*.md"))

BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([\w./-]*)(?:#([\w-]+))?\)")


def commands(text: str) -> list[str]:
    """Returns the trainings in code blocks and between backticks, each on one line."""
    blocks = "".join(BLOCK.findall(text)).replace("\\\n", " ")
    spans = [" ".join(span.split()) for span in SPAN.findall(BLOCK.sub("", text))]
    lines = [" ".join(line.split()) for line in blocks.splitlines()]
    return [line for line in [*lines, *spans] if line.startswith(("kdrun train ", "kdrun -m "))]


def anchors(text: str) -> set[str]:
    """Returns what a link into ``text`` can end in: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


COMMANDS = sorted({command for path in [PAGE, *LOGS] for command in commands(path.read_text("utf-8"))})


def test_commands_are_read_from_blocks_and_from_backticks() -> None:
    text = "`kdrun train\nseed=1` and\n\n```sh\nkdrun -m a=1 \\\n  b=2\nkdrun ls\n```\n\n`kdrun train c=3`\n"
    assert commands(text) == ["kdrun -m a=1 b=2", "kdrun train seed=1", "kdrun train c=3"]


def test_each_report_has_a_log_with_the_commands_of_its_systems() -> None:
    assert [path.stem for path in LOGS] == ["main", *(f"report-{number}" for number in range(1, 6))]
    assert all(commands(path.read_text("utf-8")) for path in LOGS)
    assert len(COMMANDS) > 100


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_beside_a_result_can_be_run(command: str) -> None:
    assert "..." not in command
    for overrides in jobs(COMPOSER, shlex.split(command)[2:]):
        check_nodes(COMPOSER.compose(overrides))


def test_the_page_is_short() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    assert len(lines) <= 110
    assert max(map(len, lines)) <= 200


def test_every_row_of_the_page_leads_to_the_log_of_its_figure() -> None:
    rows = re.findall(r"^\|.*$", PAGE.read_text("utf-8"), re.MULTILINE)
    results = [row for row in rows if not row.startswith(("|---", "| system |"))]
    assert len(results) > 50
    assert all(re.search(r"\| \[log\]\(log/[\w.-]+#[\w-]+\) \|$", row) for row in results)


@pytest.mark.parametrize("path", [PAGE, *LOGS], ids=lambda path: path.stem)
def test_every_link_leads_to_a_heading_that_is_there(path: Path) -> None:
    for file, heading in LINK.findall(path.read_text("utf-8")):
        target = path.parent / file if file else path
        assert target.is_file(), file
        assert not heading or heading in anchors(target.read_text("utf-8")), f"{file}#{heading}"
