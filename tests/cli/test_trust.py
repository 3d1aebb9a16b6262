"""Trust comes from the command line alone: what files and run folders hold runs no code of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tiny import COMPOSER

import kdrun
from kdrun.cli import main
from kdrun.store.files import write_json
from kdrun.store.format import RECORD_FORMAT
from kdrun.store.run_folder import sealed

WORDS = ["dataset=synthetic", "method=scratch", "teacher=none", "student=mlp_16", "fast_dev_run=true", "device=cpu"]


def folder_from_elsewhere(place: Path, **changes: Any) -> Path:
    """A run folder as a colleague sends it, with ``changes`` to its config."""
    config = {**COMPOSER.compose([*WORDS, "baseline=false"]), "out": str(place), **changes}
    folder = place / "run"
    folder.mkdir()
    (folder / "config.yaml").write_bytes(sealed(OmegaConf.to_yaml(OmegaConf.create(config))))
    about = {"format": RECORD_FORMAT, "overrides": [], "versions": {}, "environment": {}, "status": "running"}
    write_json(folder / "run.json", about)
    return folder


def method(folder: Path) -> dict[str, Any]:
    return {"_target_": "os.system", "command": f"touch {folder}/boom", "name": "x"}


@pytest.mark.parametrize("trust", [["os", "posix"], ["os"], ["own", "os"]])
def test_a_recorded_trust_is_a_request(trust: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_from_elsewhere(tmp_path, method=method(tmp_path), trust=trust)
    assert main(["train", f"resume={folder}"]) == 2
    request = f"add trust=[{','.join(trust)}] if you trust this folder"
    line = f"kdrun: error: {folder}: its config names classes of '{', '.join(trust)}'; {request}\n"
    assert capsys.readouterr().err == line
    assert main(["train", f"resume={folder}", f"trust=[own,{','.join(trust)}]"]) == 2
    assert "method._target_: 'os.system' is not a method" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["config.yaml", "run.json"]
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(
    ("trust", "fault"),
    [
        ("os", "trust: 'os' is not a list"),
        ([3], "trust[0]: 3 is not text"),
        ({"os": 1}, "trust: {'os': 1} is not a list"),
    ],
)
def test_a_recorded_trust_that_is_no_list_is_refused(
    trust: object, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_from_elsewhere(tmp_path, trust=trust)
    assert main(["train", f"resume={folder}", "trust=[os]"]) == 3
    line = f"kdrun: error: {folder}/config.yaml: {fault}; restore it, or start a new run\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("word", ["trust=os", "trust=null", "trust=[3]", "trust={os: 1}"])
def test_trust_beside_resume_is_a_list_of_packages(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", f"resume={folder_from_elsewhere(tmp_path)}", word]) == 2
    assert capsys.readouterr().err.startswith("kdrun: error: trust")


def test_a_run_of_ones_own_class_goes_on_if_trusted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_again.py").write_text("class Half:\n    def __call__(self, progress):\n        return 0.5\n")
    (tmp_path / "conf/schedule").mkdir(parents=True)
    (tmp_path / "conf/schedule/own.yaml").write_text("# Half\n_target_: own_again.Half\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = [*WORDS, "baseline=false", "schedule=own", "name=one"]
    assert main(["train", *words, "trust=[own_again]"]) == 0
    assert main(["train", "resume=outputs/one"]) == 2
    assert "add trust=[own_again] if you trust this folder" in capsys.readouterr().err
    assert main(["train", "resume=outputs/one", "trust=[own_again]"]) == 0
    assert OmegaConf.load("outputs/one/config.yaml").trust == ["own_again"]


def elsewhere(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs kdrun as its installed script does, in the folder ``cwd``."""
    path = os.pathsep.join(filter(None, [str(Path(kdrun.__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    code = "from kdrun.cli import script; script()"
    command = [sys.executable, "-P", "-c", code, *words]
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=100)


LURKING = ("hydra", "omegaconf", "yaml", "torch", "kdrun_lurking", "antlr4", "numpy", "readline", "json", "rich")


@pytest.mark.parametrize("words", [["ls", "method"], ["--help"], ["-sc", "query=bash"], ["--cfg", "job"], ["epochs=0"]])
def test_modules_in_the_working_directory_are_not_run(words: list[str], tmp_path: Path) -> None:
    for name in LURKING:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'boom')!r}, 'w')\nraise SystemExit(9)\n")
    done = elsewhere(*words, cwd=tmp_path, COMP_LINE="kdrun train method=k")
    assert done.returncode == (2 if words == ["epochs=0"] else 0), done.stderr
    assert not (tmp_path / "boom").exists()


def test_a_run_prefers_what_is_installed_to_the_working_directory(tmp_path: Path) -> None:
    for name in LURKING:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'boom')!r}, 'w')\nraise SystemExit(9)\n")
    done = elsewhere("train", *WORDS, "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "boom").exists()


def test_the_module_form_puts_the_working_directory_last(tmp_path: Path) -> None:
    for name in LURKING:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'boom')!r}, 'w')\nraise SystemExit(9)\n")
    root = str(Path(kdrun.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", "kdrun", "ls", "method"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "boom").exists()
