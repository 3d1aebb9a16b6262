"""What users add without touching kdrun: their own conf/ and classes, and packages that bring both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from textwrap import dedent

import pytest

from kdrun.cli import main

ROOT = Path(__file__).parents[2]
TINY = [
    "dataset=synthetic",
    "dataset.train_count=90",
    "dataset.test_count=30",
    "teacher=mlp_16",
    "student=mlp_16",
    "fast_dev_run=true",
    "device=cpu",
    "baseline=false",
]

METHOD = """
    import torch.nn.functional as F
    from kdrun import Method

    class Logits(Method):
        weight: float = 1.0

        def loss(self, student, teacher, batch):
            ce = F.cross_entropy(student.logits, batch.targets)
            return {"ce": ce, "logits": self.weight * F.mse_loss(student.logits, teacher.logits)}
"""


def lay(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(dedent(text).lstrip())


def wheel(folder: Path, package: str, files: dict[str, str]) -> Path:
    """Packs ``files`` as a wheel by hand, its configs announced as an entry point."""
    info = f"{package}-1.0.dist-info"
    about = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[kdrun.conf]\n{package} = {package}.conf\n",
    }
    whole = {**files, **about}
    path = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**whole, f"{info}/RECORD": "".join(f"{name},,\n" for name in whole)}.items():
            archive.writestr(name, dedent(text).lstrip())
    return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed a package with a method of its own and its YAML file."""
    source, target = tmp_path_factory.mktemp("plugin"), tmp_path_factory.mktemp("target")
    files = {
        "kdrun_plug/__init__.py": METHOD,
        "kdrun_plug/conf/__init__.py": "",
        "kdrun_plug/conf/method/plugged.yaml": "# A method from a plugin\n_target_: kdrun_plug.Logits\nweight: 1.0\n",
        "kdrun_plug/conf/experiment/plug_grid.yaml": """
            # @package _global_
            # A sweep from a plugin
            defaults:
              - override /method: plugged
            hydra: {mode: MULTIRUN, sweeper: {params: {method.weight: "1,2"}}}
        """,
    }
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel(source, "kdrun_plug", files))], check=True, timeout=120)
    return target


@pytest.fixture
def plugin(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_options_of_an_installed_plugin_are_listed_and_completed(
    plugin: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["ls", "method"]) == 0
    assert any(
        line.split() == ["plugged", "A", "method", "from", "a", "plugin"]
        for line in capsys.readouterr().out.splitlines()
    )
    monkeypatch.setenv("COMP_LINE", "kdrun train method=plu")
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.split() == ["method=plugged"]


def test_a_plugin_method_is_refused_until_its_package_is_trusted(
    plugin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "method=plugged", *TINY]) == 2
    err = capsys.readouterr().err
    assert "method._target_: 'kdrun_plug.Logits' is not under" in err
    assert "if you trust it, add trust=[kdrun_plug]" in err
    assert main(["train", "method=plugged", "trust=[kdrun_plug]", "name=one", *TINY]) == 0
    assert json.loads((plugin / "outputs/one/summary.json").read_text())["method"] == "plugged"


def test_a_plugin_sweep_runs_and_its_method_keys_are_checked(plugin: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "experiment=plug_grid", "trust=[kdrun_plug]", "name=grid", *TINY]) == 0
    assert sorted(path.name for path in (plugin / "outputs/grid").glob("*_*")) == ["0_weight=1", "1_weight=2"]
    assert main(["train", "method=plugged", "trust=[kdrun_plug]", "method.weigth=2"]) == 2
    assert "did you mean 'method.weight'?" in capsys.readouterr().err


def test_a_plugin_cannot_replace_a_shipped_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(tmp_path, {"conf/method/kd.yaml": "# Not the one\n_target_: evil.KD\n"})
    monkeypatch.chdir(tmp_path)
    assert main(["ls", "method"]) == 0
    assert "Not the one" not in capsys.readouterr().out


def test_a_plugin_that_is_gone_or_broken_does_not_stop_kdrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(wheel(tmp_path, "kdrun_gone", {})) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert main(["ls", "schedule"]) == 0
    assert "cosine" in capsys.readouterr().out


def own(folder: Path, name: str) -> list[str]:
    """Lays a method of the user's own into ``folder``; returns the words that run it in two jobs."""
    yaml = f"# Mine\n_target_: {name}.Logits\nweight: 1.0\n"
    lay(folder, {f"{name}.py": METHOD, "conf/method/own.yaml": yaml})
    return ["-m", "method=own,kd", f"trust=[{name}]", "name=grid", *TINY]


def test_own_files_are_seen_by_every_job_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(own(tmp_path, "own_in_sweep")) == 0
    assert sorted(path.name for path in (tmp_path / "outputs/grid").glob("*_*")) == ["0_own", "1_kd"]


def test_own_files_are_seen_by_the_jobs_in_other_processes(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra joblib is not installed")
    words = [*own(tmp_path, "own_elsewhere"), "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    code = "from kdrun.cli import script; script()"  # the working directory is not on its path: kdrun puts it there
    command = [sys.executable, "-P", "-c", code, *words]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "outputs/grid").glob("*_*/student.safetensors"))) == 2
