"""``kdrun report``: what several runs measured, beside what was claimed."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from tiny import config

from kdrun.cli import main
from kdrun.report.comparison import Grid, departures, grids
from kdrun.report.labels import labels
from kdrun.report.lines import Run, gather
from kdrun.run.run import run
from kdrun.store import files
from kdrun.store.format import RECORD_FORMAT
from kdrun.store.run_folder import sealed
from kdrun.train.metrics import TASKS

TOP1 = TASKS["classification"][0]
CLAIMS = {
    "mlp_16": {"base": 0.5, "kd": 0.625, "kd_t20": 0.25, "chain1_mlp_100/top1": 0.875},
    "cnn": {"base": 0.75, "implausible": "it has no eyes"},
}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two methods and two seeds under one teacher, a run of the student alone, and one that failed."""
    out = tmp_path_factory.mktemp("report")
    for method in ("kd", "takd"):
        for seed in (1, 2):
            ran(out, f"sweep/{method}{seed}", f"method={method}", "teacher=cnn", f"seed={seed}")
    ran(out, "base", "method=scratch", "teacher=none", "seed=3")
    (out / "sweep/failed").mkdir()
    (out / "sweep/failed/config.yaml").write_text("seed: 3\n")
    failure = {"status": "failed", "format": RECORD_FORMAT, "error": "distill: loss kd is not finite"}
    files.write_json(out / "sweep/failed/summary.json", failure)
    return out


def ran(out: Path, name: str, *overrides: str) -> dict[str, Any]:
    return run({**config(out, *overrides), "claims": CLAIMS}, out / name, list(overrides))


def summaries(out: Path, pattern: str) -> list[dict[str, Any]]:
    return [files.read_json(path) for path in sorted(out.glob(pattern))]


@pytest.fixture(scope="module")
def rows(out: Path) -> dict[str, dict[str, str]]:
    """The csv of all runs by its lines' labels."""
    assert main(["report", str(out / "sweep"), str(out / "base"), "--out", str(out / "tables")]) == 0
    with (out / "tables/report.csv").open() as file:
        return {row["line"]: row for row in csv.DictReader(file)}


def test_models_that_differ_only_in_seed_share_a_line(rows: dict[str, dict[str, str]]) -> None:
    assert {label: (row["n"], row["seeds"]) for label, row in rows.items()} == {
        "cnn teacher": ("1", "0"),
        "mlp_16 alone": ("3", "1 2 3"),
        "mlp_16 by kd": ("2", "1 2"),
        "mlp_16 by takd": ("2", "1 2"),
    }


def test_means_sds_and_differences_are_those_of_the_summaries(out: Path, rows: dict[str, dict[str, str]]) -> None:
    runs = [summary["models"] for summary in summaries(out, "sweep/kd*/summary.json")]
    own = [models["student"]["test"]["top1"] for models in runs]
    differences = [models["student"]["test"]["top1"] - models["baseline"]["test"]["top1"] for models in runs]
    line = rows["mlp_16 by kd"]
    assert (float(line["top1_mean"]), float(line["top1_sd"])) == pytest.approx((mean(own), stdev(own)))
    assert float(line["top1_difference_mean"]) == pytest.approx(mean(differences))
    assert rows["mlp_16 alone"]["top1_difference_mean"] == rows["cnn teacher"]["top1_sd"] == ""


def test_claims_stand_beside_what_they_speak_of(rows: dict[str, dict[str, str]]) -> None:
    claimed = {label: (row["claimed"], row["claimed_difference"]) for label, row in rows.items()}
    assert claimed == {
        "cnn teacher": ("0.75", ""),
        "mlp_16 alone": ("0.5", ""),
        "mlp_16 by kd": ("0.625", "0.125"),
        "mlp_16 by takd": ("", ""),
    }


def test_the_report_names_what_runs_changed_of_the_claims_source(out: Path) -> None:
    runs = loaded(out)
    for one in runs:
        one.summary["overrides"] = ["experiment=x", "seed=1", "method=kd", "epochs=1", "+student.width=4"]
    line = "claims are for the source's settings; the compared runs differ in epochs=1 student.width=4"
    assert departures(gather(runs)) == [line]
    for one in runs:
        one.summary["overrides"] = ["experiment=x", "seed=1"]
    assert departures(gather(runs)) == []


def test_a_quick_run_is_in_no_table(out: Path, tmp_path: Path) -> None:
    from kdrun.cli.report import finished_runs

    folder = tmp_path / "sweep"
    shutil.copytree(out / "sweep", folder)
    quick = next(folder.glob("kd*/config.yaml"))
    text = quick.read_text().replace("fast_dev_run: false", "fast_dev_run: true")
    quick.write_bytes(sealed(text.partition("# sha256 of")[0]))
    runs, others = finished_runs([folder])
    assert quick.parent not in [run.folder for run in runs]
    assert f"{quick.parent}: a quick run (fast_dev_run=true), which measures nothing" in others


def test_a_claim_that_its_experiment_doubts_is_marked(rows: dict[str, dict[str, str]]) -> None:
    doubts = {label: row["implausible"] for label, row in rows.items() if row["implausible"]}
    assert doubts == {"cnn teacher": "it has no eyes"}
    assert rows["mlp_16 by takd"]["claimed"] == rows["mlp_16 by takd"]["implausible"] == ""


def test_a_chain_costs_what_its_models_cost_too(out: Path, rows: dict[str, dict[str, str]]) -> None:
    runs = summaries(out, "sweep/takd*/summary.json")
    seconds = [one["models"]["student"]["train_seconds"] + one["chain"][0]["train_seconds"] for one in runs]
    assert float(rows["mlp_16 by takd"]["train_seconds_mean"]) == pytest.approx(mean(seconds))
    assert [part.partition(":")[0] for part in rows["mlp_16 by takd"]["stages"].split()] == ["distill", "mlp_100"]
    assert float(rows["mlp_16 by takd"]["teacher_images_mean"]) == 2 * 81
    assert float(rows["mlp_16 by kd"]["teacher_images_mean"]) == 81


def test_the_report_is_printed_and_written_and_lists_failures(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(out / "sweep")]) == 0
    printed = capsys.readouterr().out
    text = (out / "sweep/report.md").read_text()
    assert "| mlp_16 by kd | 2 |" in text
    assert "62.50 % (+12.50 pp)" in text
    assert "62.50 % (+12.50 pp)" in printed
    for page in (text, printed):
        assert "75.00 % !" in page
        assert page.count("! what is claimed of cnn is implausible: it has no eyes") == page.count(" !") == 1
    assert "failed: failed distill: loss kd is not finite" in text
    assert "![losses-synthetic.png](losses-synthetic.png)" in text
    assert (out / "sweep/losses-synthetic.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_of_runs_and_sweeps_is_reported_in_full(out: Path) -> None:
    from kdrun.cli.report import finished_runs

    runs, others = finished_runs([out])
    assert sorted(one.folder.name for one in runs) == ["base", "kd1", "kd2", "takd1", "takd2"]
    assert len(others) == 1


def test_external_teachers_have_one_line_for_each_set_of_weights(tmp_path: Path) -> None:
    from kdrun.cli.report import finished_runs

    for seed in (1, 2):
        ran(tmp_path, "source", "method=scratch", "teacher=none", f"seed={seed}", "baseline=false")
        shutil.copy(tmp_path / "source/student.safetensors", tmp_path / "teacher.safetensors")
        shutil.rmtree(tmp_path / "source")
        ran(tmp_path, f"run{seed}", "method=kd", f"teacher.checkpoint={tmp_path}/teacher.safetensors")
    lines = [line for line in gather(finished_runs([tmp_path])[0]) if line.how == "external"]
    assert [len(line.models) for line in lines] == [1, 1]
    assert all(label.startswith("mlp_16 external, ") for label in labels(lines))


def test_a_teacher_like_the_student_is_not_counted_as_a_baseline(tmp_path: Path) -> None:
    from kdrun.cli.report import finished_runs

    same = ("teacher=mlp_16", "teacher.recipe.epochs=1", "epochs=1", "teacher.recipe.batch_size=8", "batch_size=8")
    for seed in (0, 1):
        ran(tmp_path, f"run{seed}", "method=kd", *same, f"seed={seed}")
    by_label = dict(zip(labels(lines := gather(finished_runs([tmp_path])[0])), lines, strict=True))
    assert {label: len(line.models) for label, line in by_label.items()} == {
        "mlp_16 teacher": 1,
        "mlp_16 alone": 2,
        "mlp_16 by kd": 2,
    }


def test_every_score_is_reported_and_accuracies_in_percent(out: Path, rows: dict[str, dict[str, str]]) -> None:
    tests = [one["models"]["student"]["test"] for one in summaries(out, "sweep/kd*/summary.json")]
    line = rows["mlp_16 by kd"]
    for name in ("loss", "ece", "agreement", "top1_teacher_wrong", "top1_teacher_right"):
        assert float(line[f"{name}_mean"]) == pytest.approx(mean(test[name] for test in tests))
    further = next(table for table in grids(gather(loaded(out))) if "further" in table.title)
    cells = dict(zip(further.headings, next(row for row in further.rows if row[0] == "mlp_16 by kd"), strict=True))
    wrong = [100 * test["top1_teacher_wrong"] for test in tests]
    assert cells["top1_teacher_wrong"] == f"{mean(wrong):.2f} ± {stdev(wrong):.2f} %"
    assert cells["agreement"].startswith(f"{mean(test['agreement'] for test in tests):.4f} ±")
    takd = next(table for table in grids(gather(loaded(out))) if "takd: metrics of the method" in table.title)
    assert takd.rows[0][0] == "chain1_mlp_100/top1"
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d % \(claimed 87\.50 %\)", takd.rows[0][1])


def test_scores_where_the_teacher_errs_need_a_single_teacher(out: Path) -> None:
    runs = loaded(out)
    baseline = next(line for line in gather(runs) if line.how == "alone")
    assert len(baseline.scores("top1_teacher_wrong")) == 2
    runs[0].summary["models"]["teacher"]["key"] = "another"
    baseline = next(line for line in gather(runs) if line.how == "alone")
    assert baseline.scores("top1_teacher_wrong") == []
    assert len(baseline.scores("top1")) == 2


def test_a_difference_over_fewer_seeds_than_the_score_says_so(out: Path) -> None:
    runs = loaded(out)
    runs[0].summary["models"].pop("baseline")
    table = {row[0]: row for row in grids(gather(runs))[0].rows}
    assert table["mlp_16 by kd"][1] == "2"
    assert table["mlp_16 by kd"][3].endswith("(n=1)")
    assert "(n=" not in table["mlp_16 by takd"][3]


def test_a_long_label_is_folded_and_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    label = "resnet26 by gskd, method.previous_weight=0.05, teacher.recipe.epochs=20"
    cells = ["3", "66.59 ± 6.69 %", "+1.23 ± 4.56 pp", "89.31 % (+0.11 pp)", "467k", "140M", "302.1"]
    grid = Grid("x", ["model", *"abcdefg"], [[label, *cells]], True)
    Console(width=100).print(grid.rich())
    first, *others = capsys.readouterr().out.splitlines()[2:]
    begun, *figures = first.split("  ")
    assert "".join(" ".join([begun, *others]).split()) == "".join(label.split())
    assert [cell.strip() for cell in figures if cell] == cells


def test_unlike_losses_have_two_axes_and_one_epoch_has_a_marker() -> None:
    from kdrun.report.losses import losses

    rows = [{"stage": "distill", "epoch": 1, "loss/a": 40.0, "loss/b": 20.0, "val/loss": 2.0}]
    two = losses({"x": [rows]}, "loss").axes
    assert [[list(line.get_ydata()) for line in axes.lines] for axes in two] == [[[60.0]], [[2.0]]]
    assert two[0].lines[0].get_marker() == "."
    alike = losses({"x": [[{**rows[0], "val/loss": 30.0}]]}, "loss").axes
    assert [len(axes.lines) for axes in alike] == [2]


def test_a_panel_of_the_losses_has_two_lines_for_every_seed(out: Path) -> None:
    from kdrun.report.losses import losses
    from kdrun.store.record import read_rows

    lines = gather(loaded(out))
    panels = {
        label: [read_rows(one.metrics) for one in line.models] for label, line in zip(labels(lines), lines, strict=True)
    }
    assert all(rows for seeds in panels.values() for rows in seeds)
    figure = losses(panels, "loss")
    assert sum(len(axes.lines) for axes in figure.axes) == 2 * (1 + 2 + 2 + 2)
    kd = panels["mlp_16 by kd"][0][0]
    heights = figure.axes[2].lines[0].get_ydata()
    assert list(heights) == [pytest.approx(kd["loss/ce"] + kd["loss/kd"])]


def loaded(out: Path) -> list[Run]:
    from kdrun.cli.report import finished_runs

    return finished_runs([out / "sweep"])[0]


def test_lines_of_one_method_show_what_they_differ_in(tmp_path: Path) -> None:
    runs = []
    for temperature in (2, 8):
        ran(tmp_path, f"t{temperature}", "method=kd", f"method.temperature={temperature}", "baseline=false")
        runs.append(tmp_path / f"t{temperature}")
    from kdrun.cli.report import finished_runs

    assert labels(gather(finished_runs(runs)[0])) == [
        "mlp_16 teacher",
        "mlp_16 by kd, method.temperature=2.0",
        "mlp_16 by kd, method.temperature=8.0",
    ]


def test_lines_that_differ_in_model_class_show_its_name_only(tmp_path: Path) -> None:
    from kdrun.cli.report import finished_runs

    for teacher in ("cnn", "mlp_16"):
        ran(tmp_path, teacher, "method=kd", f"teacher={teacher}", "baseline=false")
    ours = labels(gather(finished_runs([tmp_path])[0]))
    assert sorted(ours) == ["cnn teacher", "mlp_16 by kd, teacher=CNN", "mlp_16 by kd, teacher=MLP", "mlp_16 teacher"]


def test_lines_of_one_method_show_their_experiments_names(out: Path) -> None:
    runs = loaded(out)
    for one in runs:
        one.config["experiment"] = f"{one.config['method']['name']}_digits"
        one.config["method"] = {**one.config["method"], "name": "chain"}
    assert labels(gather(runs))[2:] == ["mlp_16 by chain, kd_digits", "mlp_16 by chain, takd_digits"]


def claimed(claims: Any, method: str = "kd") -> list[float | None]:
    """What is claimed of the student alone and of the student, in a run that says no more than it must."""
    summary = {"task": "classification", "models": {role: {"name": "mlp_16"} for role in ("baseline", "student")}}
    keys = ("epochs", "batch_size", "optimizer", "schedule", "precision", "fast_dev_run", "seed")
    nodes = {"dataset": {"name": "x"}, "teacher": None, "student": {"_target_": "a.B", "name": "mlp_16"}}
    node = {"_target_": "kdrun.methods.kd.KD", "name": method}
    config: dict[str, Any] = {**dict.fromkeys(keys, 1), **nodes, "method": node, "claims": claims}
    return [line.claimed() for line in gather([Run(Path("r"), config, summary)])]


def test_a_claim_that_is_a_number_is_of_what_the_run_trains() -> None:
    assert claimed({"mlp_16": 0.5}) == [None, 0.5]


def test_presets_inherit_the_claim_of_their_method() -> None:
    claims = {"mlp_16": {"base": 0.25, "kd": 0.5, "kd_t20": 0.75}}
    assert claimed(claims, "kd_reverse") == [0.25, 0.5]
    assert claimed(claims, "kd_t20") == [0.25, 0.75]
    assert claimed(claims, "takd") == [0.25, None]


def test_claims_in_words_are_no_numbers() -> None:
    assert claimed({"mlp_16": {"kd": "better"}}) == claimed("better") == claimed(None) == [None, None]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["report"], 2, "command line: name the folder of a run or of a sweep: kdrun report outputs/NAME"),
        (["report", "nowhere"], 3, "nowhere: holds no run and no sweep (no config.yaml)"),
        (["report", "--no"], 2, "command line: unrecognized arguments: --no"),
    ],
)
def test_what_cannot_be_reported_is_refused_in_one_line(
    words: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == code
    assert capsys.readouterr().err == f"kdrun: error: {line}\n"


def test_a_folder_of_runs_that_all_failed_is_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(out / "sweep/failed")]) == 3
    assert "holds no finished run" in capsys.readouterr().err


def test_the_help_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys; from kdrun.cli import main; main(['report', '--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_long_name_of_a_folder_stands_once_in_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = str(tmp_path / ("9" * 390))
    assert main(["report", long, str(tmp_path / "other")]) == 3
    line = capsys.readouterr().err
    assert line.count("9" * 390) == 1
    assert "holds no finished run (holds no run and no sweep (no config.yaml); 1 more folder" in line
