"""The battery judges strictly, and its page lists what it tries."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
from battery.cases import Case, complaint, conduct, run_case, secret, untrained
from battery.page import KINDS, line, page, table
from battery.runner import CANARY, Outcome

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
FINE = "kdrun: error: method.temperature: nan is out of range (0, 1000]\n"


def test_the_page_has_a_row_for_every_kind() -> None:
    rows = re.findall(r"^\| (\w+) \| [^|]+ \| \d+ \| \d+ \| \d+ \| \d+ \|$", PAGE.read_text(), re.MULTILINE)
    assert [row for row in rows if row != "sum"] == list(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_module_that_makes_cases(kind: str) -> None:
    assert callable(import_module(f"battery.{KINDS[kind].module}").cases)


def test_a_clean_refusal_is_no_complaint() -> None:
    assert complaint(Outcome(2, err=FINE), (2,), ("temperature",)) == ""


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        (Outcome(1, err=FINE), "exit code 1"),
        (Outcome(0), "exit code 0"),
        (Outcome(2, err=FINE + "Traceback (most recent call last):\n"), "a traceback"),
        (Outcome(2, err="kdrun: error: KeyError: 'out'\n"), "raw"),
        (Outcome(2, err="kdrun: error: x: set weights_only=False\n"), "raw"),
        (Outcome(2, err=FINE + "a second line\n"), "2 lines"),
        (Outcome(2, err="method.temperature: nan\n"), "no line of the form"),
        (Outcome(2, err="kdrun: error: \x1b]0;x\x07\n"), "control character"),
        (Outcome(2, err="kdrun: error: seed: nan\n"), "names none of temperature"),
        (Outcome(2, err=FINE.replace("nan", "n" * 1000)), "letters"),
    ],
)
def test_each_fault_of_a_refusal_is_a_complaint(outcome: Outcome, what: str) -> None:
    assert what in complaint(outcome, (2,), ("temperature",))


def test_what_a_command_may_not_do_is_noted(tmp_path: Path) -> None:
    def did(*noted: str, changed: tuple[str, ...] = ()) -> str:
        return conduct(tmp_path, Outcome(0, noted=list(noted)), changed, ("o", "o/*"))

    assert did("run ['git', 'rev-parse', 'HEAD']", f"write {tmp_path}/box/o/x", changed=("box/o/x", "tmp/y")) == ""
    assert did("write /etc/hosts") == "opened /etc/hosts to write"
    assert did("run ['gs', '-q']") == "started ['gs', '-q']"
    assert did("connect ('10.0.0.1', 80)") == "connected to ('10.0.0.1', 80)"
    assert did(changed=("outside/precious.txt",)) == "wrote outside/precious.txt"
    assert did(changed=("box/hit",)) == "wrote hit"
    (tmp_path / "ran").write_text("pip\n")
    assert did() == "started pip"


def test_a_copied_secret_is_noted_in_names_and_in_files(tmp_path: Path) -> None:
    (tmp_path / "fine").write_text("x")
    (tmp_path / "leak").write_text(f"name: {CANARY}")
    assert secret(tmp_path, ["fine"]) == ""
    assert "leak" in secret(tmp_path, ["fine", "leak"])
    assert CANARY in secret(tmp_path, [f"box/o/{CANARY}"])


def test_a_refusal_after_training_is_noted(tmp_path: Path) -> None:
    assert untrained(tmp_path, Outcome(3)) == ""
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert untrained(tmp_path, Outcome(3)) == "trained before it was refused"


def test_a_case_whose_set_up_fails_is_no_passed_case() -> None:
    def make(box: Path) -> None:
        raise RuntimeError("no")

    assert run_case("yaml", Case("x", ["ls"], make=make)).status == "failed"


def test_the_table_counts_what_passed_and_failed() -> None:
    def result(name: str, why: str = "") -> object:
        return import_module("battery.cases").Result("yaml", name, why)

    results = [result("a"), result("b"), result("c|\x1b", "raw"), result("d", "skipped: no right")]
    assert table(results).splitlines()[-1] == "| sum | | 3 | 2 | 1 | 1 |"
    assert line(results[2]) == "- yaml: `c\\|?`: raw"
    assert "\x1b" not in page(results, 0, 60)
