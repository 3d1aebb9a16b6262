from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import config

from kdrun.cli import main
from kdrun.run.run import run
from kdrun.run.settings import settled
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


RESNETS = ("dataset.channels=3", "dataset.mean=[0.5,0.5,0.5]", "dataset.std=[0.25,0.25,0.25]")


def precision(*words: str) -> str:
    return str(settled(config(Path("out"), "precision=auto", *RESNETS, *words), in_sweep=False)["precision"])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("student=resnet8", "teacher=resnet20"), "bf16"),
        (("student=resnet8", "teacher=mlp_16"), "fp32"),
        (("student=lenet5", "teacher=resnet20"), "fp32"),
        (("student=mlp_16", "teacher=mnist_cnn"), "fp32"),
        (("student=resnet8", "teacher=mlp_16", "method=scratch"), "bf16"),
        (("student=resnet8", "teacher=none", "method=scratch"), "bf16"),
    ],
)
def test_auto_takes_bf16_where_it_was_measured_to_be_faster(
    words: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdrun.run.settings.has_bf16", lambda: True)
    assert precision(*words) == expected


def test_auto_takes_fp32_on_a_cpu_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdrun.run.settings.has_bf16", lambda: False)
    assert precision("student=resnet8", "teacher=resnet20") == "fp32"


def test_auto_takes_fp32_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdrun.run.settings.has_bf16", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert precision("student=resnet8", "teacher=resnet20", "device=cuda") == "fp32"


def test_a_run_that_does_not_ask_stays_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdrun.run.settings.has_bf16", lambda: pytest.fail("asked"))
    words = ("student=resnet8", "teacher=resnet20", *RESNETS)
    assert settled(config(Path("out"), *words), in_sweep=False)["precision"] == "fp32"


def test_keys_and_record_have_the_precision_that_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdrun.run.settings.faster", lambda config: "bf16")
    keys = []
    for name, word in (("auto", "auto"), ("bf16", "bf16"), ("fp32", "fp32")):
        folder = tmp_path / name
        words = ("method=scratch", "teacher=none", f"precision={word}", "figures=false")
        summary = run(config(tmp_path, *words), folder, [])
        keys.append(summary["models"]["baseline"]["key"])
        assert read_run_config(folder)["precision"] == ("fp32" if name == "fp32" else "bf16")
    assert keys[0] == keys[1] != keys[2]
    assert capsys.readouterr().out.count("precision=auto is bf16 for these models on this machine") == 1
