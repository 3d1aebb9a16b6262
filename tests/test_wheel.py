"""What is built is whole, and runs where no checkout is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
OFFLINE = ("No matching distribution", "Connection", "Temporary failure", "ProxyError", "Max retries")


def called(*words: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build backend that pyproject.toml names, as pip gets it to build anything."""
    target = tmp_path_factory.mktemp("backend")
    command = [*PIP, "install", "--target", str(target), "hatchling"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode and any(word in done.stderr for word in OFFLINE):
        pytest.skip("no package registry can be reached, and the build backend comes from one")
    assert done.returncode == 0, done.stderr
    return target


def build(kind: str, source: Path, out: Path, backend: Path) -> Path:
    code = f"from hatchling.build import build_{kind} as build; print(build({str(out)!r}))"
    return out / called(sys.executable, "-c", code, cwd=source, PYTHONPATH=str(backend)).split()[-1]


@pytest.fixture(scope="module")
def sdist(backend: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as they are published, unpacked."""
    out = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, out, backend)) as archive:
        archive.extractall(out, filter="data")
    (unpacked,) = (path for path in out.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path, backend: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from those sources."""
    return build("wheel", sdist, tmp_path_factory.mktemp("wheel"), backend)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_holds_exactly_modules_yamls_and_py_typed(wheel: Path) -> None:
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("kdrun/**/*.py")}
    yamls = {f"kdrun/{path.relative_to(ROOT)}" for path in ROOT.glob("conf/**/*.yaml")}
    assert len(yamls) > 100
    assert names(wheel) == modules | yamls | {"kdrun/py.typed"}


def test_a_wheel_from_the_checkout_equals_that_from_the_sdist(wheel: Path, backend: Path, tmp_path: Path) -> None:
    assert names(build("wheel", ROOT, tmp_path, backend)) == names(wheel)


def test_the_published_sources_hold_what_their_tests_read(sdist: Path) -> None:
    for name in (
        "docs/library.md",
        "docs/records.md",
        "docs/bring-your-own.md",
        "CONTRIBUTING.md",
        "scripts/kill.py",
        "tests/tiny.py",
    ):
        assert (sdist / name).read_bytes() == (ROOT / name).read_bytes()


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    called(*PIP, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel), cwd=target)
    return target


def test_the_installed_wheel_finds_its_own_files_from_any_folder(site: Path, tmp_path: Path) -> None:
    (tmp_path / "conf/method").mkdir(parents=True)
    (tmp_path / "conf/method/mine.yaml").write_text("# My own\n_target_: mine.Mine\n")
    kdrun = str(site / "bin" / "kdrun")
    listed = called(kdrun, "ls", "method", cwd=tmp_path, PYTHONPATH=str(site))
    assert "Hinton" in listed
    assert "My own" in listed
    where = called(kdrun, "--info", "searchpath", cwd=tmp_path, PYTHONPATH=str(site))
    assert str(site / "kdrun" / "conf") in where
    assert str(ROOT / "conf") not in where


def test_the_installed_wheel_trains_from_any_folder(site: Path, tmp_path: Path) -> None:
    words = [
        "train",
        "dataset=synthetic",
        "teacher=mlp_16",
        "student=mlp_16",
        "fast_dev_run=true",
        "device=cpu",
        "name=first",
    ]
    printed = called(str(site / "bin" / "kdrun"), *words, cwd=tmp_path, PYTHONPATH=str(site))
    assert "run folder" in printed
    assert (tmp_path / "outputs/first/student.safetensors").is_file()
