from __future__ import annotations

import pytest

from kdrun.cli import LETTERS, complain
from kdrun.errors import InputError, printable


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("plain ä 漢 [/red]", "plain ä 漢 [/red]"),
        ("\x1b]0;x\x07", "\\x1b]0;x\\x07"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\u202egnp\u200f", "\\u202egnp\\u200f"),
        ("\x9b2J", "\\x9b2J"),
        ("half \ud800", "half \\ud800"),
        ("\u2028", "\\u2028"),
    ],
)
def test_characters_that_act_are_escapes(text: str, visible: str) -> None:
    assert printable(text) == visible
    assert printable(text).isprintable()


def test_an_error_is_one_line_whatever_a_name_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain(InputError("a\x1b]0;x\x07\nb\u202e", "half \ud800 " + "x" * 10_000)) == 3
    err = capsys.readouterr().err
    assert err.startswith("kdrun: error: a\\x1b]0;x\\x07\\nb\\u202e: half \\ud800 xxx")
    assert err.endswith("x ...\n")
    assert err[:-1].isprintable()
    assert len(err) < LETTERS + 20


def test_a_short_error_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    complain(InputError("x", "y; z"))
    assert capsys.readouterr().err == "kdrun: error: x: y; z\n"
