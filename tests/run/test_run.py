from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from filelock import FileLock
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import config, experiment

import kdrun.run.run
from kdrun.config.compose import compose
from kdrun.core.experiment import Experiment
from kdrun.data.synthetic import Synthetic
from kdrun.errors import ConfigError, InputError, Interrupted, InUseError, TrainingError
from kdrun.methods.gan import GAN
from kdrun.run.run import run
from kdrun.store import files
from kdrun.store.record import Record, read_rows


def train(out: Path, name: str, *overrides: str) -> tuple[dict[str, Any], Path]:
    return run(config(out, *overrides), out / name, list(overrides)), out / name


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that teachers and students alone are trained once."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(autouse=True)
def undrawn(done: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of a tiny run's time; one run that has them is enough."""
    monkeypatch.setattr(Record, "figure", lambda *args: None)


@pytest.fixture(scope="module")
def done(out: Path) -> tuple[dict[str, Any], Path]:
    """A run by kd, ended."""
    return train(out, "kd", "method=kd", "epochs=3")


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    """What the stored MLP says, layer by layer."""
    weights = {name: value.astype(np.float64) for name, value in load_file(path).items()}
    hidden = images @ weights["hidden1.1.weight"].T + weights["hidden1.1.bias"]
    return np.maximum(hidden, 0) @ weights["fc.weight"].T + weights["fc.bias"]


def pixels() -> tuple[np.ndarray, np.ndarray]:
    images, targets = Synthetic(train_count=90, test_count=30).read()[1]
    return (images.double().flatten(1).numpy() / 255 - 0.5) / 0.25, targets.numpy()


def test_the_summary_scores_the_kept_weights_on_the_test_split(done: tuple[dict[str, Any], Path]) -> None:
    summary, folder = done
    images, targets = pixels()
    student_logits = logits(folder / "student.safetensors", images)
    shares = np.exp(student_logits) / np.exp(student_logits).sum(1, keepdims=True)
    student = summary["models"]["student"]
    assert student["test"]["top1"] == pytest.approx((student_logits.argmax(1) == targets).mean())
    assert student["test"]["loss"] == pytest.approx(-np.log(shares[np.arange(30), targets]).mean(), rel=1e-5)
    manifests = folder.parent.glob("models/*/manifest.json")
    [teacher] = (path.parent for path in manifests if files.read_json(path)["key"] == key(folder))
    teacher_logits = logits(teacher / "model.safetensors", images)
    assert student["test"]["agreement"] == pytest.approx((student_logits.argmax(1) == teacher_logits.argmax(1)).mean())
    assert summary["models"]["teacher"]["test"]["top1"] == pytest.approx((teacher_logits.argmax(1) == targets).mean())


def test_the_validation_score_is_that_of_the_kept_weights(out: Path, done: tuple[dict[str, Any], Path]) -> None:
    summary, folder = done
    held = experiment(out, "method=kd", "epochs=3").data.val
    student_logits = logits(
        folder / "student.safetensors", (held.images.double().flatten(1).numpy() / 255 - 0.5) / 0.25
    )
    assert summary["models"]["student"]["val"]["top1"] == pytest.approx(
        (student_logits.argmax(1) == held.targets.numpy()).mean()
    )


def accuracies(out: Path, *overrides: str) -> list[float]:
    """The validation accuracy of a slow teacher after each of its epochs."""
    words = ("method=kd", "teacher.recipe.epochs=6", "teacher.recipe.optimizer.lr=3e-4", *overrides)
    teacher = experiment(out, *words).teacher
    assert teacher is not None
    assert teacher.folder is not None
    return [row["val/top1"] for row in read_rows(teacher.folder / "metrics.jsonl")]


def test_a_teacher_is_trained_until_it_has_the_accuracy_set(tmp_path: Path) -> None:
    whole = accuracies(tmp_path)
    assert len(whole) == 6
    needed = whole.index(max(whole)) + 1
    assert 1 < needed < 6
    assert accuracies(tmp_path, f"teacher.recipe.stop_at={max(whole)}") == whole[:needed]


def key(folder: Path) -> str:
    return str(files.read_json(folder / "run.json")["teacher"]["key"])


def test_the_summary_says_what_was_run_and_what_it_costs(done: tuple[dict[str, Any], Path]) -> None:
    summary, folder = done
    assert files.read_json(folder / "summary.json") == summary
    expected = {"status": "done", "task": "classification", "seed": 0, "test_images": 30, "student": "mlp_16"}
    assert {name: summary[name] for name in expected} == expected
    assert (summary["dataset"], summary["teacher"], summary["method"]) == ("synthetic", "mlp_16", "kd")
    assert summary["overrides"] == ["method=kd", "epochs=3"]
    assert summary["score"] == summary["models"]["student"]["test"]["top1"]
    assert list(summary["models"]) == ["teacher", "baseline", "student"]
    student = summary["models"]["student"]
    assert student["parameters"] == 144 * 16 + 16 + 16 * 10 + 10
    assert student["flops"] == 2 * (144 * 16 + 16 * 10)
    assert student["train_seconds"] > 0


def test_the_best_epoch_on_validation_and_the_last_are_kept(
    done: tuple[dict[str, Any], Path],
) -> None:
    summary, folder = done
    scores = [row["val/top1"] for row in read_rows(folder / "metrics.jsonl")]
    assert len(scores) == 3
    assert summary["models"]["student"]["val"]["top1"] == max(scores)
    assert summary["models"]["student"]["epoch"] == scores.index(max(scores)) + 1
    assert load_file(folder / "student-last.safetensors").keys() == load_file(folder / "student.safetensors").keys()


def test_the_last_weights_are_those_of_the_last_stage(out: Path) -> None:
    _, folder = train(out, "two stages", "method=fitnets", "method.hint_epochs=1", "epochs=2")
    assert sorted(path.name for path in folder.glob("stages/*.last.pt")) == ["01-hint.last.pt", "02-distill.last.pt"]
    modules = files.load(folder / "stages" / "02-distill.last.pt")[0]["modules"]
    last = load_file(folder / "student-last.safetensors")
    assert last
    for name, weight in last.items():
        assert np.array_equal(weight, modules[f"student.model.{name}"].numpy())


def test_the_record_says_on_what_and_with_what_it_was_run(done: tuple[dict[str, Any], Path]) -> None:
    about = files.read_json(done[1] / "run.json")
    assert about["status"] == "done"
    assert about["ended"] >= about["started"]
    assert about["overrides"] == ["method=kd", "epochs=3"]
    assert about["environment"]["threads"] == 1
    assert set(about["versions"]) >= {"torch", "kdrun", "git_commit"}


def test_tensorboard_shows_the_run_as_one_run(done: tuple[dict[str, Any], Path]) -> None:
    summary, folder = done
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    curves = {"distill/loss/ce", "distill/loss/kd", "distill/val/top1", "distill/val/loss", "distill/lr/0"}
    assert curves <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("distill/val/top1")] == [1, 2, 3]
    assert events.Scalars("test/top1")[0].value == pytest.approx(summary["score"])
    assert {"training images", "confusion"} <= set(tags["images"])
    assert "config/text_summary" in tags["tensors"]
    assert events.SummaryMetadata("_hparams_/session_start_info").plugin_data.plugin_name == "hparams"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"figures", "stages"}


def test_the_confusion_figure_is_a_file(done: tuple[dict[str, Any], Path]) -> None:
    assert (done[1] / "figures" / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_the_run_can_be_done_again_from_its_own_config(done: tuple[dict[str, Any], Path], out: Path) -> None:
    from omegaconf import OmegaConf

    recorded = OmegaConf.to_container(OmegaConf.load(done[1] / "config.yaml"))
    run(recorded, out / "again", [])  # type: ignore[arg-type]
    again, first = (folder / "student.safetensors" for folder in (out / "again", done[1]))
    assert again.read_bytes() == first.read_bytes()


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that are trained from now on, those of the run itself apart."""
    begun: list[str] = []
    train_one = Experiment._train

    def watched(self: Experiment, folder: Path, net: Any, model: dict[str, Any], *rest: Any) -> dict[str, Any]:
        begun.append(model["name"])
        return train_one(self, folder, net, model, *rest)

    monkeypatch.setattr(Experiment, "_train", watched)
    return begun


def test_teacher_and_baseline_are_trained_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = counted(monkeypatch)
    train(tmp_path, "a", "method=kd", "student=mlp_32")
    assert begun == ["mlp_16", "mlp_32"]
    train(tmp_path, "b", "method=gan", "student=mlp_32")
    assert begun == ["mlp_16", "mlp_32"]
    train(tmp_path, "c", "method=kd", "student=mlp_32", "seed=1")
    assert begun == ["mlp_16", "mlp_32", "mlp_32"]


def test_a_run_from_scratch_is_the_stored_baseline_with_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = counted(monkeypatch)
    first, _ = train(tmp_path, "kd", "method=kd", "student=mlp_32", "epochs=2")
    follow = Experiment.follow
    monkeypatch.setattr(Experiment, "follow", lambda *args: pytest.fail("trained again"))
    summary, folder = train(tmp_path, "scratch", "method=scratch", "student=mlp_32", "epochs=2")
    monkeypatch.setattr(Experiment, "follow", follow)
    assert begun == ["mlp_16", "mlp_32"]
    rows = [summary["models"]["student"], summary["models"]["baseline"], first["models"]["baseline"]]
    assert len({(row["test"]["top1"], row["test"]["loss"], row["val"]["top1"]) for row in rows}) == 1
    assert list(summary["models"]) == ["baseline", "student"]
    [stored] = tmp_path.glob("models/mlp_32-*")
    assert read_rows(folder / "metrics.jsonl") == read_rows(stored / "metrics.jsonl")
    assert len(read_rows(folder / "metrics.jsonl")) == 2
    assert (folder / "student.safetensors").read_bytes() == (stored / "model.safetensors").read_bytes()


def test_scratch_without_a_baseline_gives_the_same_student(out: Path, tmp_path: Path) -> None:
    _, one = train(tmp_path, "one", "method=scratch", "teacher=none")
    _, other = train(tmp_path, "other", "method=scratch", "teacher=none", "baseline=false")
    assert (one / "student.safetensors").read_bytes() == (other / "student.safetensors").read_bytes()


def test_without_a_baseline_none_is_trained(tmp_path: Path) -> None:
    summary, _ = train(tmp_path, "kd", "method=kd", "baseline=false")
    assert list(summary["models"]) == ["teacher", "student"]
    assert len(list(tmp_path.glob("models/mlp_16-*"))) == 1


def test_a_diverged_run_says_so_and_leaves_a_readable_folder(out: Path) -> None:
    overrides = ["method=kd", "baseline=false", "optimizer=sgd", "optimizer.lr=1e30", "epochs=3"]
    with pytest.raises(TrainingError, match=r"^stage distill, epoch 1: .* is not finite \(lr=1e\+30\)"):
        train(out, "diverged", *overrides)
    folder = out / "diverged"
    summary = files.read_json(folder / "summary.json")
    assert summary["status"] == "failed"
    assert summary["error"].startswith("stage distill, epoch 1: ")
    assert (summary["method"], summary["student"], summary["overrides"]) == ("kd", "mlp_16", overrides)
    assert files.read_json(folder / "run.json")["status"] == "failed"
    assert "Traceback" in (folder / "error.txt").read_text()
    assert not (folder / "student.safetensors").exists()


def test_a_run_that_failed_at_its_end_goes_on_there(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: tuple[dict[str, Any], Path]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kdrun.run.run, "results", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(out, "broken", "method=kd", "epochs=3")
    folder = out / "broken"
    assert files.read_json(folder / "summary.json")["status"] == "failed"
    assert "ZeroDivisionError" in (folder / "error.txt").read_text()
    summary, _ = train(out, "broken", "method=kd", "epochs=3")
    assert summary["status"] == files.read_json(folder / "run.json")["status"] == "done"
    assert len(read_rows(folder / "metrics.jsonl")) == 3
    assert (folder / "student.safetensors").read_bytes() == (done[1] / "student.safetensors").read_bytes()


def test_a_stage_finished_before_changes_no_bit_of_the_next(out: Path) -> None:
    overrides = ["method=fitnets", "method.hint_epochs=2", "student.dropout=0.5", "epochs=2"]
    _, folder = train(out, "fitnets", *overrides)
    before = (folder / "student.safetensors").read_bytes()
    for path in folder.glob("stages/02-*"):
        path.unlink()
    train(out, "fitnets", *overrides)
    assert [row["stage"] for row in read_rows(folder / "metrics.jsonl")] == ["hint"] * 2 + ["distill"] * 2
    assert (folder / "student.safetensors").read_bytes() == before


def test_a_start_that_is_refused_leaves_a_finished_summary(done: tuple[dict[str, Any], Path], out: Path) -> None:
    summary, folder = done
    with pytest.raises(ConfigError):
        run({**config(out, "method=kd", "epochs=3"), "device": "cuda:99"}, folder, [])
    assert files.read_json(folder / "summary.json") == summary


def test_a_folder_in_use_is_refused_and_left_as_it_is(done: tuple[dict[str, Any], Path], out: Path) -> None:
    summary, folder = done
    with FileLock(folder / ".lock"), pytest.raises(InUseError) as caught:
        train(out, "kd", "method=kd", "epochs=3")
    assert caught.value.exit_code == 5
    assert files.read_json(folder / "summary.json") == summary


def test_a_dry_run_shows_the_plan_and_writes_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["method=fitnets", "dry_run=true", "student=resnet8", "teacher=resnet8"]
    summary, _ = train(tmp_path / "out", "dry", *overrides)
    assert summary["status"] == "dry run"
    assert list(tmp_path.iterdir()) == []
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("images 1x12x12, 10 classes", "layer1 16x12x12, layer2 32x6x6, layer3 64x3x3", "hint", "ce + kd"):
        assert words in printed


def test_a_quick_run_leaves_the_models_of_real_runs_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = counted(monkeypatch)
    quick, folder = train(tmp_path, "quick", "method=kd", "epochs=2", "batch_size=8", "fast_dev_run=true")
    assert begun == ["mlp_16", "mlp_16"]
    assert [row["epoch"] for row in read_rows(folder / "metrics.jsonl")] == [1]
    train(tmp_path, "real", "method=kd", "epochs=2", "batch_size=8")
    assert begun == ["mlp_16"] * 4
    assert len(list(tmp_path.glob("models/mlp_16-*"))) == 4
    assert quick["status"] == "done"


def test_a_quick_run_is_scored_on_no_more_images_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: set[int] = set()
    predict = Experiment.predict

    def watched(self: Experiment, model: torch.nn.Module, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = predict(self, model, split)
        scored.add(len(outputs[1]))
        return outputs

    monkeypatch.setattr(Experiment, "predict", watched)
    summary, _ = train(tmp_path, "quick", "fast_dev_run=true", "dataset.train_count=9000", "dataset.test_count=700")
    assert scored == {2, 256}  # two each in the rehearsal
    assert summary["status"] == "done"


def test_a_notice_says_if_teacher_and_student_share_net_and_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, notice in ((), True), (("seed=1",), False), (("student=mlp_32",), False):
        run(config(tmp_path, "dry_run=true", "method=kd", *words), tmp_path / "never", [])
        out = " ".join(capsys.readouterr().out.split())
        assert ("teacher and student have the same initial weights: same architecture, same seed 0" in out) == notice


def external(out: Path, checkpoint: Path, *overrides: str) -> tuple[dict[str, Any], Path]:
    name = hashlib.sha256(repr((str(checkpoint), overrides)).encode()).hexdigest()[:8]
    return train(out, name, "method=kd", "baseline=false", f"teacher.checkpoint={checkpoint}", *overrides)


def test_an_external_teacher_is_tested_and_not_trained(
    done: tuple[dict[str, Any], Path], out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = counted(monkeypatch)
    student = done[0]["models"]["student"]
    by_file, folder = external(out, done[1] / "student.safetensors")
    by_run, _ = external(out, done[1])
    assert begun == []
    for summary in (by_file, by_run):
        assert summary["models"]["teacher"]["test"]["top1"] == student["test"]["top1"]
        assert summary["models"]["teacher"]["val"]["top1"] == student["val"]["top1"]
        assert summary["models"]["teacher"]["train_seconds"] is None
    assert f"top1 {100 * student['val']['top1']:.2f} % on validation images" in capsys.readouterr().out
    assert files.read_json(folder / "run.json")["teacher"]["val"]["top1"] == student["val"]["top1"]


def test_a_teacher_that_was_trained_on_other_pixels_sees_them_so(done: tuple[dict[str, Any], Path], out: Path) -> None:
    own = ["dataset.mean=[0.3]", "dataset.std=[0.6]"]
    summary, _ = external(out, done[1], *own, "teacher.mean=[0.5]", "teacher.std=[0.25]")
    assert summary["models"]["teacher"]["test"]["top1"] == done[0]["models"]["student"]["test"]["top1"]
    blind, _ = external(out, done[1], *own)
    assert blind["models"]["teacher"]["test"]["loss"] != summary["models"]["teacher"]["test"]["loss"]


@pytest.mark.parametrize("overrides", [["teacher.mean=[0.5]"], ["teacher.mean=[0.5,0.5]", "teacher.std=[0.5,0.5]"]])
def test_a_normalization_that_is_half_or_misshapen_is_refused(
    overrides: list[str], done: tuple[dict[str, Any], Path], out: Path
) -> None:
    with pytest.raises(ConfigError, match=r"^teacher\.(mean|std): takes 1 numbers, one per channel"):
        external(out, done[1], *overrides)


def test_a_teacher_checkpoint_that_is_missing_is_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        external(tmp_path / "out", tmp_path / "typo.pt")
    assert str(caught.value).startswith(f"teacher.checkpoint: no such file '{tmp_path / 'typo.pt'}'")
    assert not (tmp_path / "out").exists()


def test_a_teacher_of_another_shape_is_refused(done: tuple[dict[str, Any], Path], out: Path) -> None:
    with pytest.raises(InputError, match=r"^teacher\.checkpoint: .* was made for another model: "):
        external(out, done[1], "teacher=mlp_32")


def test_another_checkpoint_is_another_teacher(done: tuple[dict[str, Any], Path], out: Path, tmp_path: Path) -> None:
    _, first = external(out, done[1])
    weights = safetensors.torch.load_file(done[1] / "student.safetensors")
    moved = {f"module.{name}": value + 0.01 for name, value in weights.items()}
    torch.save({"state_dict": moved}, tmp_path / "other.pth")
    _, second = external(out, tmp_path / "other.pth")
    assert key(first) != key(second)


def test_another_normalization_is_another_teacher(done: tuple[dict[str, Any], Path], out: Path) -> None:
    words = ("teacher.std=[0.25]", "teacher.mean=[0.5]", "teacher.mean=[0.4]")
    keys = [key(external(out, done[1], words[0], word)[1]) for word in words[1:]]
    assert keys[0] != keys[1]


def test_the_config_is_kept_whole(done: tuple[dict[str, Any], Path], out: Path) -> None:
    from omegaconf import OmegaConf

    recorded = OmegaConf.to_container(OmegaConf.load(done[1] / "config.yaml"))
    assert recorded == {**config(out, "method=kd", "epochs=3"), "figures": True}
    json.dumps(recorded)


def test_half_precision_moves_the_score_by_two_points_at_most(tmp_path: Path) -> None:
    words = "dataset=digits student=cnn teacher=none method=scratch baseline=false epochs=3 device=cpu".split()
    scores = {}
    for precision in ("fp32", "bf16"):
        words_of_run = [*words, f"precision={precision}", f"out={tmp_path}"]
        scores[precision] = run(compose(words_of_run), tmp_path / precision, words_of_run)["score"]
    assert scores["fp32"] > 0.9
    assert abs(scores["fp32"] - scores["bf16"]) < 0.02


def test_a_resume_with_another_number_of_threads_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "dataset=synthetic teacher=mlp_16 student=mlp_16 epochs=1 teacher.recipe.epochs=1 device=cpu".split()
    for threads in (1, 2):
        words_of_run = [*words, f"threads={threads}", f"out={tmp_path}"]
        run(compose(words_of_run), tmp_path / "run", words_of_run)
    torch.set_num_threads(1)
    assert "the environment has changed since the run began: threads 2 here, 1 there" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("batch_size=91",), "batch_size: 91 exceeds the 81 training images"),
        (("dataset.train_size=20",), "batch_size: 32 exceeds the 20 training images"),
        (("teacher.recipe.batch_size=91",), "teacher.recipe.batch_size: 91 exceeds the 81 training images"),
    ],
)
def test_a_batch_larger_than_the_data_is_refused_before_training(
    words: tuple[str, ...], line: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(tmp_path, "run", "method=kd", *words)
    assert str(caught.value).startswith(line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("taps", ["fc1", "hidden"])
def test_taps_that_are_no_list_are_refused_with_one(taps: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(tmp_path, "run", "method=fitnets", f"student.taps={taps}")
    assert str(caught.value) == f"student.taps: '{taps}' is not a list; write [{taps}]"


@pytest.mark.parametrize(("method", "key"), [("gskd", "students"), ("takd", "assistants")])
def test_one_model_where_a_list_is_wanted_is_refused(method: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(tmp_path, "run", f"method={method}", f"method.{key}=mlp_16")
    assert str(caught.value) == f"method.{key}: 'mlp_16' is not a list"


@pytest.mark.parametrize("where", ["metrics", "figures"])
def test_a_run_stopped_in_its_tests_resumes_without_training(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("method=gan", "student=mlp_32")
    whole, first = train(tmp_path, "whole", *words)
    stopped = getattr(GAN, where)

    def signalled(self: GAN, exp: Experiment) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return stopped(self, exp)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="tests and figures"):
        patch.setattr(GAN, where, signalled)
        train(tmp_path, "cut", *words)
    assert files.read_json(tmp_path / "cut" / "summary.json")["status"] == "interrupted"
    monkeypatch.setattr("kdrun.train.loop.descend", lambda *args: pytest.fail("trained again"))
    again, second = train(tmp_path, "cut", *words)
    assert again["method_metrics"] == whole["method_metrics"]
    assert (second / "student.safetensors").read_bytes() == (first / "student.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["teacher.recipe.stop_at=70"], "teacher.recipe.stop_at: 70 is not an accuracy in [0, 1]"),
        (["claims={mlp_16: {kd: 90}}"], "claims.mlp_16.kd: 90 is not an accuracy in [0, 1]"),
        (["claims={mlp_16: good}"], "claims.mlp_16: 'good' is not an accuracy in [0, 1]"),
    ],
)
def test_an_accuracy_that_is_none_is_refused(words: list[str], fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        train(tmp_path, "bad", "method=kd", *words)
    assert str(refused.value) == fault
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_that_does_not_reach_stop_at_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, (bound, notice) in enumerate(((0.999, True), (0.01, False))):
        train(tmp_path, f"run{place}", "method=kd", f"teacher.recipe.stop_at={bound}", "baseline=false")
        out = " ".join(capsys.readouterr().out.split())
        assert (f"without reaching teacher.recipe.stop_at={bound}" in out) == notice
