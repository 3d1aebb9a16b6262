"""docs/results.md: a figure whose command cannot be run is no result."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from tiny import COMPOSER

from kdrun.config.sweep import jobs
from kdrun.run.assembly import check_nodes

TEXT = (Path(__file__).parent.parent / "docs/results.md").read_text("utf-8")
SPANS = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", TEXT)]
SHORT = dict(re.findall(r"`([FM])` (?:stands )?for `([^`]+)`", " ".join(TEXT.split())))
COMMANDS = sorted({span for span in SPANS if span.startswith(("kdrun train ", "kdrun -m ")) and "..." not in span})


def test_there_is_a_command_for_each_of_the_reports() -> None:
    assert SHORT.keys() == {"F", "M"}
    assert len(COMMANDS) > 35


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_beside_a_result_can_be_run(command: str) -> None:
    spelled = [SHORT.get(word, word) for word in shlex.split(command)[2:]]
    for overrides in jobs(COMPOSER, shlex.split(" ".join(spelled))):
        check_nodes(COMPOSER.compose(overrides))
