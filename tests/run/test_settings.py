from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import config

from kdrun.cli import main
from kdrun.run.run import run
from kdrun.store.record import Record
from kdrun.store.run_folder import read_run_config


@pytest.fixture
def plotted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the figures that runs have plotted."""
    names: list[str] = []
    monkeypatch.setattr(Record, "figure", lambda self, name, figure: names.append(name))
    return names


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def train(out: Path, name: str, *overrides: str, **changes: Any) -> Path:
    run(config(out, "method=temperature", "teacher=none", *overrides), out / name, list(overrides), **changes)
    return out / name


def test_one_run_plots_its_figures(out: Path, plotted: list[str]) -> None:
    folder = train(out, "one")
    assert plotted == ["temperature", "confusion", "curves"]
    assert read_run_config(folder)["figures"] is True


def test_one_run_plots_none_where_none_are_wanted(out: Path, plotted: list[str]) -> None:
    folder = train(out, "none", "figures=false")
    assert (plotted, read_run_config(folder)["figures"]) == ([], False)


def test_a_job_of_a_sweep_plots_none_also_when_resumed(
    out: Path, plotted: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(out, "job", brief=True)
    assert (plotted, read_run_config(folder)["figures"]) == ([], False)
    assert main(["train", f"resume={folder}"]) == 0
    assert (plotted, read_run_config(folder)["figures"]) == ([], False)
    capsys.readouterr()
    assert main(["train", f"resume={folder}", "figures=true"]) == 2
    line = "figures: the run was started with false, now true; leave it out, or start a new run"
    assert capsys.readouterr().err == f"kdrun: error: {line}\n"


def test_a_job_of_a_sweep_plots_those_wanted(out: Path, plotted: list[str]) -> None:
    folder = train(out, "wanted", "figures=true", brief=True)
    assert plotted == ["temperature", "confusion", "curves"]
    assert read_run_config(folder)["figures"] is True
