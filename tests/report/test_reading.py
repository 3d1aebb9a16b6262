"""``kdrun report`` over damaged and hostile folders: it shows what it can, and names what it leaves out."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from tiny import config

from kdrun.cli import main
from kdrun.cli.report import finished_runs
from kdrun.errors import InputError, printable
from kdrun.report.reading import metrics_rows
from kdrun.run.run import run
from kdrun.store import files

Change = Callable[[dict[str, Any]], Any]


def reseal(path: Path, text: str) -> None:
    """Writes ``text`` as a config.yaml whose digest is right, as someone else could."""
    data = text.partition("# sha256 of")[0].encode("latin-1")
    data += b"" if data.endswith(b"\n") or not data else b"\n"
    path.write_bytes(data + f"# sha256 of the lines above: {sha256(data).hexdigest()}\n".encode())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a teacher and a baseline."""
    out = tmp_path_factory.mktemp("reading")
    run(config(out, "method=kd", "teacher=cnn"), out / "good", [])
    return out


@pytest.fixture
def sweep(done: Path, tmp_path: Path) -> Path:
    """Two copies of a finished run: one to damage, one to stay."""
    for name in ("bad", "good"):
        (tmp_path / "sweep" / name).mkdir(parents=True)
        for file in ("config.yaml", "summary.json", "metrics.jsonl"):
            shutil.copy(done / "good" / file, tmp_path / "sweep" / name / file)
    return tmp_path / "sweep"


def omitted(sweep: Path) -> str:
    """The only line about folders that are left out; the good run is not."""
    runs, [line] = finished_runs([sweep])
    assert [run.folder for run in runs] == [sweep / "good"]
    return line


def summarize(sweep: Path, change: Change, name: str = "bad") -> None:
    path = sweep / name / "summary.json"
    summary = files.read_json(path)
    changed = change(summary)
    files.write_json(path, changed if isinstance(changed, dict) else summary)


def at(*path: str, value: Any) -> Change:
    """A change of one field; with ``value`` ``KeyError`` it is taken away."""

    def change(summary: dict[str, Any]) -> None:
        node: Any = summary
        for key in path[:-1]:
            node = node[key]
        if value is KeyError:
            del node[path[-1]]
        else:
            node[path[-1]] = value

    return change


TEST = ("models", "student", "test")
WRONG = {
    "models: missing": at("models", value=KeyError),
    "models: [] is not a group of keys": at("models", value=[]),
    "models.student: missing": at("models", "student", value=KeyError),
    "models.teacher: 3 is not a group of keys": at("models", "teacher", value=3),
    "models.student.name: 7 is not text": at("models", "student", "name", value=7),
    "models.baseline.name: 'xxxxx": at("models", "baseline", "name", value="x" * 5000),
    "models.teacher.key: 5 is not text": at("models", "teacher", "key", value=5),
    "task: 'regression' is not one of": at("task", value="regression"),
    "task: [] is not text": at("task", value=[]),
    "status: null is not text": at("status", value=None),
    "models.student.test.top1: 'high' is not a number": at(*TEST, "top1", value="high"),
    "models.student.test.top1: nan is not a finite number": at(*TEST, "top1", value=float("nan")),
    "models.student.test.top1: 7 is out of range [0, 1]": at(*TEST, "top1", value=7.0),
    "models.student.test.top1: -0.25 is out of range [0, 1]": at(*TEST, "top1", value=-0.25),
    "models.student.test.top1: true is not a number": at(*TEST, "top1", value=True),
    "models.student.test.top1: missing": at(*TEST, "top1", value=KeyError),
    "models.student.test.loss: inf is not a finite number": at(*TEST, "loss", value=float("inf")),
    "models.student.test.extra: 1e+300 is out of range": at(*TEST, "extra", value=1e300),
    "models.teacher.test.ece: 1.5 is out of range [0, 1]": at("models", "teacher", "test", "ece", value=1.5),
    "models.student.parameters: -1 is out of range": at("models", "student", "parameters", value=-1),
    "models.student.train_seconds: 'long' is not a number": at("models", "student", "train_seconds", value="long"),
    "models.student.stages.distill: 'x'": at("models", "student", "stages", value={"distill": "x"}),
    "chain: 4 is not a list": at("chain", value=4),
    "chain[0].train_seconds: missing": at("chain", value=[{"name": "x"}]),
    "method_metrics: [] is not a group": at("method_metrics", value=[]),
    "method_metrics.chain1_x/top1: 3 is out of range": at("method_metrics", value={"chain1_x/top1": 3}),
    "overrides[0]: 3 is not text": at("overrides", value=[3]),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_summary_that_cannot_be_true_is_left_out(what: str, sweep: Path) -> None:
    summarize(sweep, WRONG[what])
    assert omitted(sweep).startswith(f"{sweep / 'bad' / 'summary.json'}: {what}")


def test_what_is_left_out_is_named_beside_the_tables(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summarize(sweep, at(*TEST, "top1", value=7.0))
    assert main(["report", str(sweep)]) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader((sweep / "report.csv").read_text().splitlines()))
    assert [row["n"] for row in rows] == ["1", "1", "1"]
    line = f"{sweep / 'bad' / 'summary.json'}: models.student.test.top1: 7 is out of range [0, 1]"
    assert f"not in the tables: {line}" in captured.out
    assert "700" not in (sweep / "report.md").read_text()
    assert captured.err == ""


CONFIGS = {
    "": "dataset: missing",
    "[1, 2]": "is not a mapping",
    "seed: [": "cannot be read as YAML",
    "a: !!python/object/apply:os.system [true]": "is not allowed",
    "\xff": "",
    "dataset: {name: x}": "teacher: missing",
}


@pytest.mark.parametrize("text", CONFIGS)
def test_a_damaged_config_is_left_out(text: str, sweep: Path) -> None:
    reseal(sweep / "bad" / "config.yaml", text)
    line = omitted(sweep)
    assert line.startswith(f"{sweep / 'bad' / 'config.yaml'}")
    assert CONFIGS[text] in line


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("name: kd", "name: [kd]", "method.name: ['kd'] is not text"),
        ("seed: 0", "seed: x", "seed: 'x' is not a whole number"),
        ("claims: null", "claims: {mlp_16: {kd: 7.0}}", "claims.mlp_16.kd: 7 is out of range [0, 1]"),
        ("claims: null", "claims: {mlp_16: .nan}", "claims.mlp_16: nan is out of range [0, 1]"),
        ("fast_dev_run: false", "fast_dev_run: 3", "fast_dev_run: 3 is not true or false"),
    ],
)
def test_a_config_with_a_wrong_value_is_left_out(old: str, new: str, what: str, sweep: Path) -> None:
    path = sweep / "bad" / "config.yaml"
    assert old in path.read_text()
    reseal(path, path.read_text().replace(old, new))
    line = omitted(sweep)
    assert line.startswith(f"{path}: ")
    assert what in line


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(80_000_000)


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "a fifo": fifo,
    "a huge file": huge,
    "a link to itself": loop,
    "a folder": folder,
    "deep nesting": lambda path: path.write_text('{"status": ' + "[" * 3000 + "]" * 3000 + "}"),
    "bytes": lambda path: path.write_bytes(b"\xff\xfe\x00" * 50),
    "a list": lambda path: path.write_text("[]"),
    "nothing": lambda path: path.write_text(""),
}


@pytest.mark.parametrize("name", ["summary.json", "config.yaml"])
@pytest.mark.parametrize("what", DAMAGE)
def test_a_file_that_is_none_is_left_out(what: str, name: str, sweep: Path) -> None:
    DAMAGE[what](sweep / "bad" / name)
    line = omitted(sweep)
    assert line.startswith(f"{sweep / 'bad' / name}")
    assert len(line) < 400


ROWS: dict[str, Callable[[Path], Any]] = {
    **DAMAGE,
    "numbers": lambda path: path.write_text("1\n2\n"),
    "texts for numbers": lambda path: path.write_text(json.dumps({"stage": "distill", "epoch": 1, "loss/ce": "x"})),
    "NaN": lambda path: path.write_text('{"stage": "distill", "epoch": 1, "loss/ce": NaN}\n'),
    "no stage": lambda path: path.write_text('{"epoch": 1, "loss/ce": 0.5}\n'),
    "a stage of another type": lambda path: path.write_text('{"stage": [1], "epoch": 1}\n'),
    "an endless epoch": lambda path: path.write_text('{"stage": "a", "epoch": 1e400}\n'),
}


@pytest.mark.parametrize("what", ROWS)
def test_damaged_rows_are_refused_or_none(what: str, sweep: Path) -> None:
    path = sweep / "good" / "metrics.jsonl"
    ROWS[what](path)
    try:
        assert metrics_rows(path) == []
    except InputError as fault:
        assert str(fault).startswith(f"{path}: ")
        assert len(str(fault)) < 400


@pytest.mark.parametrize("damage", [Path.unlink, ROWS["texts for numbers"]])
def test_a_run_without_rows_has_scores_and_no_figure(
    damage: Callable[[Path], Any], sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(sweep / "bad")
    path = sweep / "good" / "config.yaml"
    reseal(path, re.sub("out: .*", "out: nowhere", path.read_text()))
    damage(sweep / "good" / "metrics.jsonl")
    assert main(["report", str(sweep)]) == 0
    assert not list(sweep.glob("losses*.png"))
    assert "![" not in (sweep / "report.md").read_text()
    assert "mlp_16 by kd" in (sweep / "report.csv").read_text()
    captured = capsys.readouterr()
    assert captured.err == ""
    assert f"not in the figure: {sweep / 'good' / 'metrics.jsonl'}: " in captured.out


def test_links_are_not_walked_and_no_run_is_counted_twice(sweep: Path) -> None:
    (sweep / "up").symlink_to("..")
    (sweep / "self").symlink_to("self")
    (sweep / "again").symlink_to("good")
    runs, others = finished_runs([sweep, sweep])
    assert len(runs) == 2
    assert [other for other in others if "up" in other] == [
        f"{sweep / 'up'}: is a link, which is followed only to a run; name it itself"
    ]


def test_a_thousand_folders_are_walked_in_seconds(tmp_path: Path) -> None:
    from time import monotonic

    for number in range(1000):
        (tmp_path / f"{number}").mkdir()
        (tmp_path / f"{number}" / "config.yaml").touch()
    begun = monotonic()
    with pytest.raises(Exception, match="999 more folders"):
        finished_runs([tmp_path])
    assert monotonic() - begun < 10


def test_a_folder_of_runs_is_shown_beside_one_without(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(sweep), "nowhere", "--out", str(tmp_path / "r")]) == 0
    assert "not in the tables: nowhere: holds no run and no sweep (no config.yaml)" in capsys.readouterr().out


def test_where_nothing_can_be_reported_there_is_one_line(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bad", "good"):
        (sweep / name / "summary.json").write_text("{")
    assert main(["report", str(sweep)]) == 3
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kdrun: error: {sweep}: holds no finished run ({sweep / 'bad' / 'summary.json'}: ")
    assert line.endswith("; 1 more folders cannot be compared either)")


NAMES = [
    "[/red]$\\frac{",
    "=cmd|' /C calc'!A0",
    "<script>x",
    "\x1b]0;owned\x07\n\u202egnp",
    "half \ud800",
    "@SUM :warning:",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_shown_and_does_nothing(name: str, sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(sweep / "good")
    (sweep / "bad").rename(sweep / "bad[bold]\x1b]0;")
    for change in (at("models", "student", "name", value=name), at("method_metrics", value={name: 0.5})):
        summarize(sweep, change, "bad[bold]\x1b]0;")
    assert main(["report", str(sweep)]) == 0
    captured = capsys.readouterr()
    page, table = (sweep / "report.md").read_text("utf-8"), (sweep / "report.csv").read_text("utf-8")
    for text in (captured.out, page, table):
        assert all(char.isprintable() or char == "\n" for char in text)
    assert captured.err == ""
    assert "<script" not in page
    assert not any(cell[:1] in ("=", "@", "+") for row in csv.reader(table.splitlines()) for cell in row)
    assert printable(name).split()[0] in captured.out


def test_the_name_of_a_data_set_cannot_leave_the_folder(sweep: Path, tmp_path: Path) -> None:
    for folder in (sweep / "bad", sweep / "good"):
        path = folder / "config.yaml"
        reseal(path, path.read_text().replace("name: synthetic", "name: '..x..y'"))
    assert main(["report", str(sweep), "--out", str(tmp_path / "r")]) == 0
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["losses-..x..y.png", "report.csv", "report.md"]
