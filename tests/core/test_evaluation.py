"""Teachers and baselines are tested once: later runs read their scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny import config
from torch import nn

from kdrun.core.experiment import Experiment
from kdrun.run.run import run
from kdrun.store import files, weights
from kdrun.train.runtime import Runtime

WORDS = ("teacher=mlp_32", "method=kd", "figures=false")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Each frozen model that was run on validation or test images: the split, and its class."""
    calls: list[tuple[str, str]] = []
    predict = Experiment.predict

    def noted(exp: Experiment, model: nn.Module, split: str) -> Any:
        if not any(weight.requires_grad for weight in model.parameters()):
            calls.append((split, type(model).__name__))
        return predict(exp, model, split)

    monkeypatch.setattr(Experiment, "predict", noted)
    return calls


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after one run: its teacher and its baseline are tested."""
    out = tmp_path_factory.mktemp("runs")
    run(config(out, *WORDS), out / "first", [])
    return out


@pytest.fixture
def out(store: Path, tmp_path: Path) -> Path:
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    return tmp_path


def train(out: Path, name: str, *words: str) -> dict[str, Any]:
    models: dict[str, Any] = run(config(out, *WORDS, *words), out / name, [])["models"]
    return models


BOTH = [("test", "Tapped"), ("test", "Tapped")]


def test_a_second_run_tests_neither_teacher_nor_baseline(
    out: Path, ran: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[nn.Module] = []
    monkeypatch.setattr("kdrun.report.results.flops", lambda model, image: counted.append(model) or 1)
    first = files.read_json(out / "first" / "summary.json")["models"]
    again = train(out, "second", "method=kd_soft")
    assert ran == []
    assert len(counted) == 1  # the student
    assert {role: again[role] for role in ("teacher", "baseline")} == {
        role: first[role] for role in ("teacher", "baseline")
    }


def test_the_record_is_that_of_a_run_that_measures(out: Path, ran: list[tuple[str, str]]) -> None:
    kept = train(out, "kept", "method=kd_soft")
    shutil.rmtree(out / "models" / "scores")
    measured = train(out, "measured", "method=kd_soft")
    assert ran == BOTH
    assert {role: row["test"] for role, row in kept.items()} == {role: row["test"] for role, row in measured.items()}
    assert set(kept["student"]["test"]) >= {"top1", "loss", "ece", "agreement", "top1_teacher_wrong"}
    assert [list(row) for row in kept.values()] == [list(row) for row in measured.values()]


@pytest.mark.parametrize("words", [("dataset.test_count=31",), ("batch_size=81",), ("dataset.std=[0.5]",)])
def test_other_images_or_batches_are_measured_anew(
    out: Path, ran: list[tuple[str, str]], words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Experiment, "evaluation_batch", property(lambda exp: exp.recipe.batch_size))
    train(out, "before")
    del ran[:]
    train(out, "other", *words)
    assert ran == BOTH


def test_other_weights_of_the_same_model_are_measured_anew(out: Path, ran: list[tuple[str, str]]) -> None:
    key = files.read_json(out / "first" / "run.json")["teacher"]["key"]
    [folder] = [path.parent for path in out.glob("models/*/manifest.json") if files.read_json(path)["key"] == key]
    moved = {name: value + 1 for name, value in safetensors.torch.load_file(folder / "model.safetensors").items()}
    manifest = files.read_json(folder / "manifest.json")
    manifest["files"]["model.safetensors"] = weights.write_state(folder / "model.safetensors", moved)
    files.write_json(folder / "manifest.json", manifest)
    before = files.read_json(out / "first" / "summary.json")["models"]["teacher"]["test"]
    after = train(out, "other")["teacher"]["test"]
    assert ran == [("test", "Tapped")]
    assert after["loss"] != before["loss"]


def test_another_environment_measures_anew(
    out: Path, ran: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Runtime.environment
    monkeypatch.setattr(Runtime, "environment", lambda self: {**here(self), "torch": "3.0"})
    train(out, "other")
    assert ran == BOTH


def test_a_quick_run_does_not_take_the_scores_of_a_whole_one(out: Path, ran: list[tuple[str, str]]) -> None:
    train(out, "quick", "fast_dev_run=true")
    assert ran == BOTH


def test_a_checkpoint_is_validated_and_tested_once(out: Path, ran: list[tuple[str, str]], tmp_path: Path) -> None:
    words = ("teacher=mlp_16", "baseline=false", f"teacher.checkpoint={out / 'first'}")
    first = train(out, "one", *words)["teacher"]
    assert ran == [("val", "Tapped"), ("test", "Tapped")]
    assert train(out, "two", *words, "seed=1")["teacher"] == first
    assert len(ran) == 2
    other = safetensors.torch.load_file(out / "first" / "student.safetensors")
    torch.save({name: value + 1 for name, value in other.items()}, tmp_path / "other.pth")
    train(out, "three", *words[:2], f"teacher.checkpoint={tmp_path / 'other.pth'}")
    assert len(ran) == 4


def test_the_arguments_of_its_net_are_part_of_a_checkpoints_key(out: Path, ran: list[tuple[str, str]]) -> None:
    words = ("teacher=mlp_16", "baseline=false", f"teacher.checkpoint={out / 'first'}")
    keys = {train(out, name, *words, f"teacher.dropout={name}")["teacher"]["key"] for name in ("0.0", "0.5")}
    assert (len(keys), len(ran)) == (2, 4)


def test_translated_images_are_scored_once_too(tmp_path: Path, ran: list[tuple[str, str]]) -> None:
    words = ("dataset=synthetic_pairs", "dataset.size=64", "dataset.train_count=20", "dataset.test_count=6")
    tiny = (
        *words,
        "student=ae",
        "student.width=2",
        "teacher=none",
        "batch_size=4",
        "method=ae_cross",
        "method.pairs=[]",
    )
    rows = [
        run(
            config(
                tmp_path,
                *tiny,
            ),
            tmp_path / name,
            [],
        )["models"]
        for name in ("one", "two")
    ]
    assert ran == [("test", "Tapped")]
    assert rows[0]["baseline"] == rows[1]["baseline"]
