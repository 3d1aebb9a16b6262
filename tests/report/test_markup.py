"""Names in tables, pages, csv, figures and file names act as nothing."""

from __future__ import annotations

import csv
import io

import pytest
import torch
from rich.console import Console
from rich.table import Table

from kdrun.report.closing import closing
from kdrun.report.display import Display, Screen
from kdrun.report.figures import confusion
from kdrun.report.markup import csv_text, file_part, markdown, plain


@pytest.mark.parametrize("start", ["=", "+", "-", "@", " =", "＝", "＠"])  # noqa: RUF001
def test_a_cell_of_text_begins_no_formula(start: str) -> None:
    rows = [{"name": f"{start}1+1", f"{start}x": 0.5}]
    [heads, cells] = csv.reader(io.StringIO(csv_text(rows)))
    assert cells[0] == f"'{start}1+1"
    assert heads[1] == f"'{start}x"


@pytest.mark.parametrize("start", ["\t", "\r", "\n"])
def test_a_cell_begins_with_no_line_end_or_tab(start: str) -> None:
    [_, [cell]] = csv.reader(io.StringIO(csv_text([{"name": f"{start}=1"}])))
    assert cell[0] == "\\"


def test_numbers_in_csv_are_not_changed() -> None:
    rows = [{"a": -0.5, "b": -1, "c": None, "d": "plain - text"}, {"a": 1e-9}]
    assert csv_text(rows) == "a,b,c,d\n-0.5,-1,,plain - text\n1e-09,,,\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mlp_16 by kd, a=1.5", "mlp_16 by kd, a=1.5"),
        ("a|b", "a\\|b"),
        ("`x`", "\\`x\\`"),
        ("<script>", "&lt;script&gt;"),
        ("a&lt;", "a&amp;lt;"),
        ("[x](javascript:y)", "\\[x\\](javascript:y)"),
        ("*x* _y_", "\\*x\\* \\_y\\_"),
        ("https://x", "https:\\//x"),
        ("www.x.y", "www\\.x.y"),
        ("a\nb", r"a\\nb"),
        ("\x1b[2J", "\\\\x1b\\[2J"),
    ],
)
def test_markdown_shows_a_name_as_it_is(name: str, text: str) -> None:
    assert markdown(name) == text


def written(what: object, **options: object) -> str:
    screen = Screen(file=io.StringIO(), width=200, emoji=False, highlight=False, force_terminal=True, color_system=None)
    screen.print(what, **options)  # type: ignore[arg-type]
    return screen.file.getvalue()  # type: ignore[attr-defined]


def test_a_console_shows_escapes_and_obeys_none() -> None:
    assert written("a\x1b]0;ownedb", markup=False) == "a\\x1b]0;ownedb\n"
    assert written("two\nlines", markup=False) == "two\nlines\n"
    assert written("\u202egnp", markup=False) == "\\u202egnp\n"


def test_a_table_shows_brackets_colons_and_escapes() -> None:
    table = Table(title=plain("[/red] \x1b[2J"), box=None)
    table.add_column(plain("[bold]"))
    table.add_row(plain(":warning: [link=x]"))
    text = written(table)
    assert "[/red] \\x1b[2J" in text
    assert ":warning: [link=x]" in text
    assert "[bold]" in text
    assert "\x1b]" not in text


def test_the_closing_table_takes_any_name() -> None:
    from pathlib import Path

    row = {"name": "[/red]", "test": {"top1": 0.5, "loss": 1.0}, "parameters": 1, "flops": 1, "train_seconds": None}
    names = {"dataset": "[/x]", "seed": 0, "method": "[/y]", "task": "classification", "test_images": 1}
    screen = Console(file=io.StringIO(), width=120)
    closing(screen, {**names, "models": {"student": row}}, Path("out"))
    assert all(name in screen.file.getvalue() for name in ("[/red]", "[/x]", "[/y]"))  # type: ignore[attr-defined]


def test_the_progress_of_any_name_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    display = Display()
    display.listen("[/red]", "[/stage]\x1b", 0.5, {})
    display.console.print(display.progress.make_tasks_table(display.progress.tasks))
    out = capsys.readouterr().out
    assert "[/red]: [/stage]" in out
    assert "\x1b" not in out


def test_a_class_called_like_a_formula_is_drawn() -> None:
    figure = confusion(torch.eye(2, dtype=torch.int64), ["$\\frac{", "$x$"], "$\\nope$")
    figure.draw_without_rendering()
    assert figure.axes[0].get_yticklabels()[1].get_text() == r"\$x\$"


def test_a_part_of_a_file_name_leads_nowhere() -> None:
    assert file_part("../../x y") == "..-..-x-y"
    assert len(file_part("x" * 500)) == 60
