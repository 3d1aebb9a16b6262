"""The tab key, pressed in a real bash."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdrun.cli import main

ROOT = Path(__file__).parents[2]
BASH = shutil.which("bash")


class Shell:
    """A bash at a terminal, in which ``kdrun`` is this checkout's and its completion is installed."""

    def __init__(self, home: Path) -> None:
        program = home / "bin" / "kdrun"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m kdrun "$@"\n')
        program.chmod(0o755)
        python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        changes = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": python_path}
        self.terminal, inner = pty.openpty()
        self.process = subprocess.Popen(
            [str(BASH), "--norc", "--noprofile", "-i"],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            cwd=home,
            env={**os.environ, **changes, "TERM": "dumb", "PS1": "$ ", "COLUMNS": "200", "INPUTRC": "/dev/null"},
            start_new_session=True,
        )
        os.close(inner)
        self.type('bind "set enable-bracketed-paste off"; eval "$(kdrun -sc install=bash)"; echo rea""dy\n')
        self.wait("ready")

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def wait(self, text: str, seconds: float = 30.0) -> str:
        """What has appeared until ``text`` was; all of it where that does not come."""
        screen, end = "", time.monotonic() + seconds
        while text not in screen and time.monotonic() < end:
            if select.select([self.terminal], [], [], 0.1)[0]:
                screen += os.read(self.terminal, 4096).decode(errors="replace")
        return screen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    if BASH is None:
        pytest.skip("there is no bash on this machine")
    home = tmp_path_factory.mktemp("home")
    (home / "conf/method").mkdir(parents=True)
    (home / "conf/method/zeal.yaml").write_text("# Mine\n_target_: mine.Zeal\n")
    opened = Shell(home)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("typed", "whole"),
    [
        ("kdrun tra", "kdrun train"),
        ("kdrun train dataset=mnist method=fi", "method=fitnets"),
        ("kdrun train -m optimizer=sgd optimizer.mo", "optimizer.momentum="),
        ("kdrun train method=ze", "method=zeal"),
        ("kdrun train --config-d", "--config-dir"),
        ("kdrun ls optim", "kdrun ls optimizer"),
    ],
)
def test_tab_completes_commands_flags_options_keys_and_own_files(shell: Shell, typed: str, whole: str) -> None:
    shell.type(f"{typed}\t")
    last = whole.split()[-1]
    assert last in shell.wait(last)
    shell.type("\x15")  # Ctrl-U: the line is not to be run


def offered(line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return printed.out.split()


@pytest.mark.parametrize(
    "line",
    ["kdrun train name='a met", "kdrun train name=a=b met", "kdrun train --cfg", "kdrun train method=x ", "kdrun"],
)
def test_a_line_that_is_not_finished_or_faulty_is_no_error(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offered(line, capsys, monkeypatch)


def test_a_file_under_config_dir_is_offered_after_the_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method/yodel.yaml").write_text("# Mine\n_target_: mine.Yodel\n")
    for flag in (f"--config-dir {tmp_path}", f"-cd {tmp_path}", f"--config-dir={tmp_path} -m seed=1"):
        assert offered(f"kdrun train {flag} method=y", capsys, monkeypatch) == ["method=yodel"]


@pytest.mark.parametrize(
    ("words", "whole"),
    [
        ("recipe=wr", ["recipe=wrn200"]),
        ("teacher.recipe=wr", ["teacher.recipe=wrn200"]),
        ("teacher.recipe.optimizer=adama", ["teacher.recipe.optimizer=adamax"]),
        ("method=takd method.base=cos", ["method.base=cosine"]),
        ("method.base=cos", []),
    ],
)
def test_an_option_of_a_nested_place_is_offered(
    words: str, whole: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert offered(f"kdrun train {words}", capsys, monkeypatch) == whole


def test_every_flag_is_offered_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    words = offered("kdrun train --", capsys, monkeypatch)
    assert {"--cfg", "--help", "--multirun", "--config-dir"} <= set(words)
    assert len(words) == len(set(words))
    assert all(re.fullmatch(r"--[a-z-]+", word) for word in words)


@pytest.mark.parametrize(
    "words", [[], ["bash"], ["install"], ["install=tcsh"], ["install=bash", "install=zsh"], ["x=1"]]
)
def test_completion_is_installed_for_a_shell_and_does_nothing_else(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-sc", *words]) == 2
    line = "kdrun: error: -sc: takes install=SHELL or uninstall=SHELL, where SHELL is bash, zsh or fish\n"
    assert capsys.readouterr() == ("", line)
