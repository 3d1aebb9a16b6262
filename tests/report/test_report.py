from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from kdrun.report import leaderboard
from kdrun.report.closing import closing, closing_line
from kdrun.report.cost import flops, parameters, short
from kdrun.report.curves import curves
from kdrun.report.display import Display, sentence
from kdrun.report.figures import confusion
from kdrun.store import files
from kdrun.store.format import RECORD_FORMAT
from kdrun.train.metrics import TASKS

TOP1 = TASKS["classification"][0]


def model(top1: float, name: str = "mlp", seconds: float | None = 2.0) -> dict[str, Any]:
    test = {"top1": top1, "loss": 1 - top1, "ece": 0.1}
    costs = {"parameters": 2490, "flops": 4928, "train_seconds": seconds}
    return {"name": name, "test": test, "val": {"top1": 0.5}, **costs}


def summary(student: float, baseline: float | None = None, teacher: float | None = None, **more: Any) -> dict[str, Any]:
    models = {"teacher": model(teacher, "cnn") if teacher else None, "baseline": model(baseline) if baseline else None}
    kept = {role: row for role, row in models.items() if row}
    return {
        "status": "done",
        "format": RECORD_FORMAT,
        "task": "classification",
        "dataset": "digits",
        "method": "kd",
        "seed": 0,
        "test_images": 1450,
        "models": {**kept, "student": model(student)},
        **more,
    }


def printed(what: Any, *args: Any) -> str:
    console = Console(file=io.StringIO(), width=120)
    what(console, *args)
    return console.file.getvalue()


def test_the_closing_table_shows_differences_to_the_baseline() -> None:
    lines = printed(closing, summary(0.9123, baseline=0.9, teacher=0.95), Path("outputs/x")).splitlines()
    rows = {line.split("  ")[0]: line for line in lines}
    assert "scores on 1,450 test images" in lines[0]
    assert "95.00 %" in rows["teacher"]
    assert "+5.00 pp" in rows["teacher"]
    assert "90.00 %" in rows["student alone"]
    assert "+" not in rows["student alone"]
    assert "91.23 %" in rows["student, kd"]
    assert "+1.23 pp" in rows["student, kd"]
    assert all(figure in rows["student, kd"] for figure in ("2.49k", "4.93k", "2.0"))


def test_the_closing_table_shows_a_loss_as_a_loss() -> None:
    assert "-2.00 pp" in printed(closing, summary(0.88, baseline=0.9), Path("outputs/x"))


def test_without_a_baseline_there_is_no_difference() -> None:
    text = printed(closing, summary(0.9, teacher=0.95), Path("outputs/x"))
    assert "+" not in text
    assert "student alone" not in text


def test_an_external_checkpoint_has_no_training_seconds() -> None:
    external = summary(0.9)
    external["models"]["teacher"] = model(0.95, "cnn", seconds=None)
    assert "external" in printed(closing, external, Path("outputs/x"))


def test_the_command_under_the_table_is_quoted_for_any_folder() -> None:
    assert "tensorboard --logdir 'my outputs'" in printed(closing, summary(0.9), Path("my outputs/run"))


def test_a_job_of_a_sweep_closes_with_one_line() -> None:
    text = printed(closing_line, summary(0.9, baseline=0.85, teacher=0.95), Path("sweep/0_kd"))
    assert text == "0_kd: top1 teacher 95.00 %, student alone 85.00 %, student 90.00 %\n"


def job(folder: Path, number: int, content: dict[str, Any] | None, **run: Any) -> None:
    place = folder / f"{number}_job"
    place.mkdir(parents=True)
    if content is not None:
        files.write_json(place / "summary.json", content)
    if run:
        files.write_json(place / "run.json", {"format": RECORD_FORMAT, **run})


def words(method: str, seed: int) -> list[str]:
    return ["dataset=digits", f"method={method}", f"seed={seed}"]


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two methods, three seeds; the last job failed."""
    baselines = {0: 0.78, 1: 0.86, 2: 0.86}
    runs = [("kd", 0, 0.80), ("kd", 1, 0.90), ("kd", 2, 0.85), ("gan", 0, 0.7), ("gan", 1, 0.8)]
    for number, (method, seed, student) in enumerate(runs):
        names = {"method": method, "seed": seed, "overrides": words(method, seed)}
        job(tmp_path, number, summary(student, baseline=baselines[seed], teacher=0.95, **names))
    job(tmp_path, 5, {"status": "failed", "error": "boom", "method": "gan", "overrides": words("gan", 2)})
    return tmp_path


def read(folder: Path) -> dict[str, dict[str, str]]:
    return {row["setting"]: row for row in csv.DictReader((folder / "leaderboard.csv").read_text().splitlines())}


def test_the_leaderboard_has_means_and_deviations_over_seeds(sweep: Path) -> None:
    assert leaderboard.write_leaderboard(sweep) == 1
    row = read(sweep)["method=kd"]
    values, differences = np.array([0.80, 0.90, 0.85]), np.array([0.02, 0.04, -0.01])
    assert float(row["top1_mean"]) == pytest.approx(values.mean())
    assert float(row["top1_sd"]) == pytest.approx(values.std(ddof=1))
    assert float(row["top1_difference_mean"]) == pytest.approx(differences.mean())
    assert float(row["top1_difference_sd"]) == pytest.approx(differences.std(ddof=1))
    assert float(row["top1_baseline_mean"]) == pytest.approx(np.mean([0.78, 0.86, 0.86]))
    assert float(row["top1_teacher_sd"]) == 0
    assert float(row["loss_mean"]) == pytest.approx((1 - values).mean())
    assert (row["n"], row["failed"], row["parameters"]) == ("3", "0", "2490")


def test_each_data_set_has_a_table_and_each_task_its_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = summary(0.5, dataset="pairs", task="translation", overrides=["dataset=pairs"])
    pictures["models"]["student"]["test"] = {score.name: 20.0 for score in TASKS["translation"]}
    for number, name in enumerate(("digits", "mnist")):
        job(tmp_path, number, summary(0.5, dataset=name, overrides=[f"dataset={name}"]))
    job(tmp_path, 2, pictures)
    assert leaderboard.write_leaderboard(tmp_path) == 0
    titles = [line.split(" on test")[0] for line in capsys.readouterr().out.splitlines() if "on test images" in line]
    assert titles == ["digits: top1", "mnist: top1", "pairs: psnr_db"]
    rows = read(tmp_path)
    assert (rows["dataset=pairs"]["psnr_db_mean"], rows["dataset=pairs"]["top1_mean"]) == ("20.0", "")
    assert (rows["dataset=mnist"]["psnr_db_mean"], rows["dataset=mnist"]["top1_mean"]) == ("", "0.5")


def test_the_jobs_of_a_long_sweep_come_in_their_order(tmp_path: Path) -> None:
    assert files.numbered(Path(name) for name in ("10_a", "2_b", "1_c")) == [Path("1_c"), Path("2_b"), Path("10_a")]
    for number in range(11):
        job(tmp_path, number, summary(0.5, overrides=[f"method=m{number}"]))
    leaderboard.write_leaderboard(tmp_path)
    assert list(read(tmp_path)) == [f"method=m{number}" for number in range(11)]


def test_a_failed_job_is_counted_and_left_out_of_the_means(sweep: Path) -> None:
    leaderboard.write_leaderboard(sweep)
    row = read(sweep)["method=gan"]
    assert (row["n"], row["failed"]) == ("2", "1")
    assert float(row["top1_mean"]) == pytest.approx(0.75)


def test_the_best_mean_is_first_and_a_setting_without_runs_last(sweep: Path) -> None:
    job(sweep, 6, {"status": "failed", "error": "boom", "method": "wgan", "overrides": words("wgan", 0)})
    assert leaderboard.write_leaderboard(sweep) == 2
    assert list(read(sweep)) == ["method=kd", "method=gan", "method=wgan"]
    assert read(sweep)["method=wgan"]["top1_mean"] == ""


def test_of_one_run_there_is_no_deviation(tmp_path: Path) -> None:
    job(tmp_path, 0, summary(0.9, baseline=0.8, overrides=["method=kd"]))
    leaderboard.write_leaderboard(tmp_path)
    [row] = read(tmp_path).values()
    assert (row["n"], row["top1_mean"], row["top1_sd"], row["top1_difference_sd"]) == ("1", "0.9", "", "")
    assert row["top1_teacher_mean"] == ""


def test_a_job_that_was_killed_is_counted_and_renames_no_other(sweep: Path) -> None:
    job(sweep, 6, None, overrides=words("kd", 3), status="running")
    job(sweep, 7, None)
    assert leaderboard.write_leaderboard(sweep) == 3
    assert list(read(sweep)) == ["method=kd", "method=gan", "?"]
    assert (read(sweep)["method=kd"]["n"], read(sweep)["method=kd"]["failed"]) == ("3", "1")


def test_a_sweep_of_which_every_job_failed_says_how_many(tmp_path: Path) -> None:
    for number in range(2):
        job(tmp_path, number, {"status": "failed", "error": "boom", "overrides": []})
    assert leaderboard.write_leaderboard(tmp_path) == 2
    assert not (tmp_path / "leaderboard.csv").exists()


def test_a_sweep_over_seeds_only_is_one_line_named_by_method(tmp_path: Path) -> None:
    for seed in range(2):
        job(tmp_path, seed, summary(0.9, overrides=["epochs=3", f"seed={seed}"], seed=seed))
    leaderboard.write_leaderboard(tmp_path)
    assert list(read(tmp_path)) == ["kd"]


def test_the_printed_leaderboard_has_mean_sd_and_difference(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leaderboard.write_leaderboard(sweep)
    text = " ".join(capsys.readouterr().out.split())
    spread = 100 * statistics.stdev([0.8, 0.9, 0.85])
    other = 100 * statistics.stdev([0.02, 0.04, -0.01])
    assert f"method=kd 3 85.00 ± {spread:.2f} % +1.67 ± {other:.2f} pp 95.00 %" in text
    assert "method=gan (1 not finished) 2 75.00 ±" in text


@pytest.mark.parametrize(
    ("number", "text"), [(7, "7"), (999, "999"), (2490, "2.49k"), (78042, "78k"), (1.2345e6, "1.23M"), (4.1e9, "4.1G")]
)
def test_a_large_number_is_short(number: float, text: str) -> None:
    assert short(number) == text


def test_a_multiply_add_is_two_operations() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 36, 5))
    assert flops(net, torch.zeros(1, 1, 6, 6)) == 2 * (36 * 4 * 9 + 4 * 36 * 5)
    assert parameters(net) == (4 * 9 + 4) + (4 * 36 * 5 + 5)


def test_the_confusion_figure_shows_parts_of_the_true_class() -> None:
    figure = confusion(torch.tensor([[3, 1], [0, 0]]), ["cat", "dog"], "a title")
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 0]])
    assert [text.get_text() for text in axes.texts] == ["3", "1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog"]
    assert axes.get_title() == "a title"


def test_a_hundred_classes_have_no_names_in_the_figure() -> None:
    figure = confusion(torch.eye(100, dtype=torch.int64), [str(label) for label in range(100)], "")
    assert list(figure.axes[0].texts) == []


def test_curves_cover_only_the_epochs_that_have_the_score() -> None:
    hint = {"stage": "hint", "epoch": 1, "loss/hint": 9.0, "val/hint": 3.0}
    one, two = ({"epoch": epoch, "loss/ce": 1 / epoch, "loss/kd": 1.0, "val/top1": 0.1 * epoch} for epoch in (1, 2))
    loss, score = curves({"student": [hint, one, two], "teacher": [hint]}, TOP1, "a title").axes
    assert [line.get_label() for line in loss.lines] == ["student"]
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[1, 2.0], [2, 1.5]])
    np.testing.assert_allclose(score.lines[0].get_xydata(), [[1, 10], [2, 20]])


def test_an_epoch_is_one_short_line() -> None:
    row = {"epoch": 3, "seconds": 1.25, "loss/ce": 0.5, "val/top1": 0.123, "val/loss": 2.0}
    assert sentence(row) == "epoch 3, top1 12.30 %, 1.2 s"
    assert sentence({"epoch": 1, "seconds": 0.0, "val/hint": 0.5}) == "epoch 1, hint 0.5000, 0.0 s"


def test_where_there_is_no_terminal_a_stage_ends_in_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Display() as display:
        display.listen("mlp by kd", "distill", 0.5, {})
        display.listen("mlp by kd", "distill", 0.5, {"epoch": 1, "seconds": 0.1, "val/top1": 0.5})
        display.listen("mlp by kd", "distill", 1.0, {"epoch": 2, "seconds": 0.2, "val/top1": 0.75})
        display.notice("[bold]as it is[/bold]")
    assert capsys.readouterr().out == "mlp by kd: distill epoch 2, top1 75.00 %, 0.2 s\n[bold]as it is[/bold]\n"
