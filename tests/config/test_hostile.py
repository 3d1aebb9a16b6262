"""Config files and words as nobody writes them: one line each, at once, and exit code 2."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kdrun.cli import main

GLOBAL = "# @package _global_\n"
ALIASES = "claims:\n  a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"  {b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcd", "bcde", strict=True)
)
FILES: dict[str, str | bytes] = {
    "aliases": GLOBAL + ALIASES,
    "depth": f"{GLOBAL}claims: {'[' * 3000}{']' * 3000}\n",
    "a number": "3\n",
    "a text": "hello\n",
    "a list": "- a\n",
    "a list of itself": f"{GLOBAL}claims: &a {{b: *a}}\n",
    "a tag": f"{GLOBAL}claims: !!python/object/apply:os.system [true]\n",
    "nothing as key": f"{GLOBAL}claims: {{null: 1}}\n",
    "a list as key": f"{GLOBAL}claims: {{[a]: 1}}\n",
    "a number as key": f"{GLOBAL}claims: {{3: 1}}\n",
    "not UTF-8": b"# @package _global_\nclaims: {a: \xff}\n",
    "a null byte": b"# @package _global_\nclaims: {a: \0}\n",
    "twice": f"{GLOBAL}epochs: 3\nepochs: 4\n",
    "itself": f"{GLOBAL}defaults:\n  - mine\n",
    "itself by its group": f"{GLOBAL}defaults:\n  - /experiment: mine\n",
    "defaults that are text": f"{GLOBAL}defaults: method\n",
    "defaults that are numbers": f"{GLOBAL}defaults: [3]\n",
    "an option that leads up": f"{GLOBAL}defaults:\n  - override /method: ../dataset/mnist\n",
    "an option that is a path": f"{GLOBAL}defaults:\n  - override /method: /etc/passwd\n",
    "a group that leads up": f"{GLOBAL}defaults:\n  - /../../x: y\n",
    "a path that leads up": f"{GLOBAL}defaults:\n  - ../method/kd\n",
    "an option that is a number": f"{GLOBAL}defaults:\n  - override /method: 3\n",
    "a header of one word": "# @package\nepochs: 3\n",
    "a header of three words": "# @package a b\nepochs: 3\n",
    "a header that is no package": "# @package ..\nepochs: 3\n",
    "claims that are a list": f"{GLOBAL}claims: [1]\n",
    "a run to resume": f"{GLOBAL}resume: outputs/x\n",
    "trust": f"{GLOBAL}trust: [os]\n",
    "a root that is a list": f"{GLOBAL}method: [1]\n",
    "a teacher that is a number": f"{GLOBAL}teacher: 3\n",
}


@pytest.mark.parametrize("case", FILES)
def test_a_hostile_file_is_one_line(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = FILES[case]
    path = tmp_path / "conf/experiment/mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    assert main(["train", "experiment=mine", "dry_run=true"]) == 2
    assert time.process_time() - started < 20
    one_line(capsys.readouterr())
    assert main(["ls", "experiment"]) == 0


def one_line(captured: tuple[str, str]) -> None:
    out, err = captured
    assert out == ""
    assert err.startswith("kdrun: error: ")
    assert err.count("\n") == 1
    assert len(err) <= 1100
    assert err.isprintable() or err.rstrip("\n").isprintable()
    assert "Error:" not in err
    assert "raised while" not in err
    assert "NoneType" not in err


WORDS = {
    "long": "name=" + "x" * 1_000_000,
    "a long key": "x" * 1_000_000 + "=1",
    "a long word": "x" * 1_000_000,
    "deep lists": "dataset.mean=" + "[" * 5000 + "]" * 5000,
    "deep dicts": "method=" + "{a: " * 3000 + "1" + "}" * 3000,
    "deep and open": "dataset.mean=" + "[" * 3000,
    "deep calls": "seed=" + "choice(" * 3000 + ")" * 3000,
    "deep interpolations": "name=" + "${" * 3000,
    "a deep key": ".".join("a" * 4000) + "=1",
    "many digits": "seed=" + "9" * 6000,
    "a null byte": "name='a\0b'",
    "a null byte in an option": "method=k\0d",
    "a null byte in a key": "na\0me=x",
    "an escape": "name='\x1b]0;x\x07'",
    "not UTF-8": "out=/tmp/\udcff",
    "not UTF-8 as an option": "method=\udcff",
    "half a character": "name='\ud800'",
    "a blank name": "name=' '",
    "a name that ends with a space": "name='a '",
    "an option that leads up": "student=../dataset/mnist",
    "an option of no group": "method=../train",
    "an option that is a path": "method=/etc/passwd",
    "an option through a dot": "method=./kd",
    "an option of another system": "method=..\\train",
    "a step of zero": "seed=range(0,10,0)",
    "nothing as claims": "claims=0",
    "a list as claims": "claims=[]",
    "nan as claims": "claims=nan",
    "a text as claims": "claims=four",
    "a group as taps": "student.taps={}",
    "nan as taps": "student.taps=nan",
    "a number as taps": "teacher.taps=-1",
    "null as taps": "student.taps=null",
    "numbers as taps": "student.taps=[0]",
    "a label": "method.name=x",
    "a dampening": "optimizer={_target_: torch.optim.SGD, lr: 0.1, dampening: -1}",
}


@pytest.mark.parametrize("case", WORDS)
@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_a_hostile_word_is_one_line(
    case: str, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.process_time()
    assert main(["train", *flags, WORDS[case], "dry_run=true"]) == 2
    assert time.process_time() - started < 20
    one_line(capsys.readouterr())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["dry_run=true,false"], "dry_run: cannot be swept over"),
        (["name=a,b"], "name: cannot be swept over"),
        (["out=a,b"], "out: cannot be swept over"),
        (["trust=[a],[b]"], "trust: cannot be swept over"),
        (["seed=0,1", "seed=2,3"], "seed: is there more than once; write all its values once"),
        (["seed=0,1", "seed=2"], "seed: is there more than once"),
        (["method=kd,fitnets", "method=kd"], "method: is there more than once"),
        (["seed=0,0"], "command line: jobs 0 and 1 are the same (seed=0); write a value once"),
        (["optimizer.lr=0.1,1e-1"], "command line: jobs 0 and 1 are the same"),
        (["method.temperature=4,4.0", "seed=0,1"], "command line: jobs 0 and 2 are the same"),
    ],
)
def test_a_sweep_has_each_job_once(
    words: list[str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-m", *words]) == 2
    assert capsys.readouterr().err.startswith(f"kdrun: error: {fault}")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_comma_in_its_name_is_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/a,b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "resume=out/a,b"]) == 3
    assert "no run in 'out/a,b'" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--cfg", "job"], [], ["--cfg", "all"], ["--cfg", "hydra"]])
def test_a_package_that_is_not_there_is_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *flags, "--package", "nope"]) == 2
    one_line(capsys.readouterr())


def test_a_part_of_the_config_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--cfg", "job", "--package", "method"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("method:\n")
    assert "temperature: 4.0" in out
    assert "optimizer" not in out


def test_a_method_without_temperatures_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["method=temperature", "method.temperatures=[]", "teacher=none", "dry_run=true"]
    assert main(["train", *words]) == 2
    one_line(capsys.readouterr())
