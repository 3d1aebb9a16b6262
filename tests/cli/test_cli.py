from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from omegaconf import OmegaConf

import kdrun
from kdrun.cli import main
from kdrun.cli.folder import claim
from kdrun.errors import ConfigError, Interrupted, TrainingError
from kdrun.store import files
from kdrun.store.format import RECORD_FORMAT
from kdrun.store.run_folder import sealed


class Runs(list):
    """Stands for kdrun.run: keeps what it was called with, and leaves what a run leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.fails: dict[int, BaseException] = {}  # by the number of the call
        self.boards: list[Path] = []  # folders whose leaderboard was asked for

    def run(self, config: dict[str, Any], folder: Path, overrides: list[str], **options: bool) -> dict[str, Any]:
        self.append((config, folder, overrides))
        if len(self) - 1 in self.fails:
            raise self.fails[len(self) - 1]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_bytes(sealed(OmegaConf.to_yaml(OmegaConf.create(config))))
        about = {"format": RECORD_FORMAT, "overrides": overrides, "versions": {}, "environment": {}}
        files.write_json(folder / "run.json", about)
        return {"status": "done", "score": 0.5}

    def write(self, folder: Path) -> int:
        """Stands for the leaderboard's."""
        self.boards.append(folder)
        return len(self.fails)


@pytest.fixture
def runs(monkeypatch, tmp_path):
    fake_runs, fake, board = Runs(), ModuleType("kdrun.run.run"), ModuleType("kdrun.report.leaderboard")
    fake.run = fake_runs.run
    board.write_leaderboard = fake_runs.write
    monkeypatch.setitem(sys.modules, "kdrun.run.run", fake)
    monkeypatch.setitem(sys.modules, "kdrun.report.leaderboard", board)
    monkeypatch.chdir(tmp_path)
    return fake_runs


def python(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(kdrun.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_names_commands_groups_and_examples(argv, capsys):
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("train", "ls", "examples:", "kd", "digits", "kdrun train -m"))
    assert "Hydra" in out and "powered by" not in out


def test_help_of_train_lists_every_key_with_default_and_range(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert "seed=0                [0, 4294967295]" in out
    assert all(f"  {key}=" in out for key in ("epochs", "device", "precision", "resume", "trust", "dry_run"))


def test_version_is_that_of_kdrun(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kdrun {kdrun.__version__}\n"


def test_ls_says_in_one_line_what_each_option_is(capsys):
    assert main(["ls", "method"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fitnets ") and "hint" in line for line in lines)
    assert all(len(line.split()) > 3 for line in lines)


def test_ls_lists_all_groups_and_files_of_ones_own(capsys, tmp_path):
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_text("# @package method\n# My own idea\n_target_: mine.Mine\n")
    assert main(["ls", "--config-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert all(f"{group}\n" in out for group in ("dataset", "teacher", "student", "method", "optimizer"))
    assert any(line.split() == ["mine", "My", "own", "idea"] for line in out.splitlines())


@pytest.mark.parametrize(
    ("argv", "fault"),
    [
        (["trian"], "trian: no such command (have: train, "),
        (["ls", "metod"], "metod: no such group (have: dataset, teacher, student, method, optimizer, schedule"),
        (["train", "name"], "name: cannot parse 'name'"),
        (["train", "epoch=3"], "epoch: unknown key; did you mean 'epochs'?"),
        (["epochs=0"], "epochs: 0 is out of range [1, 100000]"),
        (["--frobnicate"], "command line: unrecognized arguments: --frobnicate"),
        (["--experimental-rerun=x.pickle"], "command line: unrecognized arguments: --experimental-rerun=x.pickle"),
        (["--cfg", "jobs"], "command line: argument -c/--cfg: invalid choice: 'jobs'"),
        (["--config-dir", "nowhere"], "--config-dir: no folder 'nowhere'"),
        (["-m", "epochs=1,0"], "epochs: 0 is out of range [1, 100000] (in 1 of 2 jobs)"),
        (["-m", "resume=x"], "resume: goes on with one run, not with a sweep; leave -m out"),
        (["-m", "hydra/launcher=nowhere"], "hydra/launcher: no option 'nowhere' (have: basic"),
        (
            ["hydra.nothing=3"],
            "hydra.nothing: is set by kdrun alone; of Hydra's keys only hydra.mode, hydra.sweeper and",
        ),
    ],
)
def test_a_faulty_command_line_ends_with_two_and_one_line(argv, fault, runs, capsys, tmp_path):
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"kdrun: error: {fault}")
    assert printed.err.count("\n") == 1
    assert not runs and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv",
    [
        ["--cfg", "job", "--resolve", "epochs=3", "name=${method.name}"],
        ["train", "epochs=3", "--cfg", "job", "name=${method.name}", "--resolve"],
        ["epochs=3", "name=${method.name}", "--resolve", "--cfg=job"],
    ],
)
def test_flags_may_stand_anywhere(argv, capsys):
    assert main(argv) == 0
    config = OmegaConf.create(capsys.readouterr().out)
    assert (config.epochs, config.name) == (3, "kd")
    assert "hydra" not in config


def test_the_config_is_printed_as_written_unless_resolved(capsys):
    assert main(["--cfg", "job", "threads=${epochs}"]) == 0
    assert "threads: ${epochs}" in capsys.readouterr().out


def test_hydras_own_questions_are_answered(capsys):
    assert main(["--info", "searchpath"]) == 0
    assert "schema" in capsys.readouterr().out
    assert main(["--cfg", "hydra", "--package", "hydra.job"]) == 0
    assert "name: kdrun" in capsys.readouterr().out


def test_a_run_gets_its_config_its_own_folder_and_the_overrides(runs, tmp_path):
    assert main(["train", "method=scratch", "name=first", f"out={tmp_path}/x y"]) == 0
    config, folder, overrides = runs[0]
    assert config["method"]["name"] == "scratch"
    assert folder == tmp_path / "x y" / "first"
    assert overrides == ["method=scratch", "name=first", f"out={tmp_path}/x y"]


def test_runs_without_a_name_never_share_a_folder(runs):
    assert main(["train"]) == main(["train"]) == 0
    folders = [folder for _, folder, _ in runs]
    assert folders[0] != folders[1]
    assert all(folder.name.endswith("_digits_kd") and folder.parent == Path("outputs") for folder in folders)


def test_a_name_that_is_taken_is_refused(runs, capsys):
    assert main(["train", "name=first"]) == 0
    assert main(["train", "name=first"]) == 2
    assert "name: 'first' is taken; choose another, or go on with resume=outputs/first" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["train"], ["-m", "seed=0,1"]])
def test_no_run_gets_the_folder_of_the_trained_models(words, runs, capsys):
    assert main([*words, "name=models"]) == 2
    assert "name: 'models' is the folder of the trained models; choose another" in capsys.readouterr().err
    assert runs == []


def test_a_taken_sweep_name_is_refused_without_a_run_to_resume(runs, capsys, tmp_path):
    (tmp_path / "outputs/first/0_kd").mkdir(parents=True)
    assert main(["-m", "seed=0,1", "name=first", f"out={tmp_path}/outputs"]) == 2
    assert capsys.readouterr().err.endswith("is taken; choose another; what a sweep has trained is not trained again\n")


def test_of_two_sweeps_of_one_name_the_second_is_refused(tmp_path):
    claim(tmp_path / "sweep")
    with pytest.raises(ConfigError, match=r"^name: 'sweep' is taken; choose another$"):
        claim(tmp_path / "sweep")


@pytest.mark.parametrize("argv", [["--version"], ["train", "--version"], ["-m", "seed=0,1", "--version"]])
def test_the_version_may_be_requested_anywhere(argv, capsys):
    assert main(argv) == 0
    assert capsys.readouterr().out == f"kdrun {kdrun.__version__}\n"


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (TrainingError("distill", "loss is nan"), 1, "kdrun: error: distill: loss is nan\n"),
        (RuntimeError("shapes\ndiffer"), 1, "kdrun: error: RuntimeError: shapes differ\n"),
        (Interrupted(15, "cnn"), 143, "kdrun: error: cnn: interrupted\n"),
        (KeyboardInterrupt(), 130, "kdrun: interrupted\n"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_a_run_that_fails_says_so_in_one_line_and_by_its_code(fault, code, line, runs, capfd, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)
    runs.fails[0] = fault
    assert main(["train"]) == code
    assert capfd.readouterr().err == line


def test_a_traceback_is_printed_on_request(runs, capsys, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    runs.fails[0] = RuntimeError("no")
    assert main(["train"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_sweep_runs_every_job_in_a_folder_that_says_what_it_is(runs, tmp_path):
    words = ["method=takd", "method.base=kd,fitnets", "seed=0,1", "name=grid", "+optimizer.foreach=true"]
    assert main(["-m", *words]) == 0
    assert [(config["method"]["base"]["name"], config["seed"]) for config, _, _ in runs] == [
        ("kd", 0),
        ("kd", 1),
        ("fitnets", 0),
        ("fitnets", 1),
    ]
    assert [folder.name for _, folder, _ in runs] == [
        "0_base=kd_seed=0",
        "1_base=kd_seed=1",
        "2_base=fitnets_seed=0",
        "3_base=fitnets_seed=1",
    ]
    assert {folder.parent for _, folder, _ in runs} == {tmp_path / "outputs/grid"}


def test_a_job_that_fails_is_named_and_does_not_stop_the_others(runs, capsys):
    runs.fails[1] = TrainingError("distill", "loss is nan")
    assert main(["train", "-m", "seed=0,1,2"]) == 1
    assert len(runs) == 3
    assert capsys.readouterr().err == "kdrun: error: 1_seed=1: distill: loss is nan\n"


def test_a_stopped_sweep_leaves_a_leaderboard_of_finished_jobs(runs, capsys):
    runs.fails[1] = Interrupted(15, "cnn")
    assert main(["-m", "seed=0,1,2", "name=sweep"]) == 143
    assert len(runs) == 2
    assert [folder.name for folder in runs.boards] == ["sweep"]


def test_a_file_may_say_that_it_is_a_sweep(runs, tmp_path):
    (tmp_path / "conf/experiment").mkdir(parents=True)
    text = '# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: "0,1"}}}\n'
    (tmp_path / "conf/experiment/grid.yaml").write_text(text)
    assert main(["train", "experiment=grid"]) == 0
    assert [config["seed"] for config, _, _ in runs] == [0, 1]


def test_a_sweeper_that_cannot_do_its_work_ends_with_two(runs, capsys):
    assert main(["-m", "optimizer.lr=interval(0.1,1)"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_a_sweep_borrows_from_the_process_it_gives_back(runs, monkeypatch):
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before, handlers = list(sys.argv), list(logging.getLogger().handlers)
    main(["-m", "seed=0,1"])
    assert sys.argv == before
    assert logging.getLogger().handlers == handlers
    assert "HYDRA_FULL_ERROR" not in os.environ


def test_a_run_is_gone_on_with_as_it_was_recorded(runs):
    main(["train", "method=takd", "method.base=fitnets", "epochs=4", "name=first"])
    again = ["resume=outputs/first", "epochs=9", "threads=2", "device=cpu", "method=takd", "method.base=fitnets"]
    assert main(["train", *again, "optimizer.lr=0.001", "method.assistants=[mlp_100]"]) == 0
    (before, _, _), (config, folder, overrides) = runs
    assert folder == Path("outputs/first")
    assert config == {**before, "epochs": 9, "threads": 2, "device": "cpu", "resume": "outputs/first"}
    assert overrides[:4] == ["method=takd", "method.base=fitnets", "epochs=4", "name=first"]
    assert overrides[4:] == [*again[1:], "optimizer.lr=0.001", "method.assistants=[mlp_100]"]


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("optimizer.lr=0.1", "optimizer.lr: the run was started with 0.001, now 0.1; leave it out, or start a new run"),
        ("recipe=sgd200", "recipe: the run goes on with its own; leave it out, or start a new run"),
        ("teacher.recipe=sgd200", "teacher.recipe: the run goes on with its own; leave it out, or start a new run"),
        ("method=fitnets", "method: the run was started with 'kd', now 'fitnets'; leave it out, or start a new run"),
        ("epochs=3", "epochs: the run was started with 4, now 3; it may only grow"),
        ("epochs=100001", "epochs: 100001 is out of range [1, 100000]"),
        ("threads=0", "threads: 0 is out of range [1, 1024]"),
        ("optimizr.lr=1", "optimizr.lr: unknown key; did you mean 'optimizer.lr'?"),
        ("teacher.recipe.optimizer=sgd", "teacher.recipe.optimizer: the run was started with 'adam', now 'sgd'"),
    ],
)
def test_what_differs_from_the_record_is_refused_by_name(override, fault, runs, capsys):
    main(["train", "epochs=4", "name=first"])
    assert main(["train", "resume=outputs/first", override]) == 2
    assert capsys.readouterr().err.startswith(f"kdrun: error: {fault}")


@pytest.mark.parametrize(("name", "text"), [("config.yaml", "{"), ("config.yaml", "[1]"), ("run.json", "{}")])
def test_a_record_that_cannot_be_read_is_a_faulty_input(name, text, runs, capsys, tmp_path):
    assert main(["train", "resume=outputs/first"]) == 3
    main(["train", "name=first"])
    (tmp_path / "outputs/first" / name).write_text(text)
    assert main(["train", "resume=outputs/first"]) == 3
    assert capsys.readouterr().err.count("\n") == 2


def test_a_record_of_kdrun_0_1_is_refused_in_one_line(
    runs: Runs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["train", "name=first"])
    (tmp_path / "outputs/first/run.json").write_text('{"overrides": []}')
    capsys.readouterr()
    assert main(["train", "resume=outputs/first"]) == 3
    message = capsys.readouterr().err
    assert message.startswith("kdrun: error: outputs/first: has a record of format 1, this kdrun (")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("kdrun t", "train"),
        ("kdrun ", "method="),
        ("kdrun train met", "method="),
        ("kdrun train dataset=digits method=fi", "method=fitnets"),
        ("kdrun method=fi", "method=fitnets"),
        ("kdrun train optimizer.l", "optimizer.lr="),
        ("kdrun ls da", "dataset"),
    ],
)
def test_the_tab_key_completes_commands_groups_options_and_keys(line, offered, capsys, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    assert main(["-sc", "query=bash"]) == 0
    assert offered in capsys.readouterr().out.split()


def test_what_to_evaluate_for_completion_names_the_program(capsys):
    assert main(["--shell-completion", "install=bash"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("hydra_bash_completion kdrun")


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["train", "--help"], ["--version"], ["ls"], ["--cfg", "job"], ["epochs=0"], ["method=kdd"]],
)
def test_what_needs_no_torch_does_not_wait_for_it(argv):
    code = f"import sys, kdrun.cli\nkdrun.cli.main({argv!r})\nsys.exit('torch' in sys.modules)"
    assert python("-W", "error", "-c", code).returncode == 0


def test_completion_does_not_wait_for_torch():
    code = "import sys, kdrun.cli\nkdrun.cli.main(['-sc', 'query=bash'])\nsys.exit('torch' in sys.modules)"
    assert python("-c", code, COMP_LINE="kdrun train method=").returncode == 0


def test_a_reader_that_leaves_early_sees_no_traceback():
    closed = "import os, sys\nr, w = os.pipe()\nos.dup2(w, 1)\nos.close(r)\nos.close(w)\n"
    ended = python("-c", f"{closed}from kdrun.cli import script\nsys.argv = ['kdrun', 'ls']\nscript()")
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.fixture
def own_schedule(tmp_path, monkeypatch):
    (tmp_path / "conf/schedule").mkdir(parents=True)
    (tmp_path / "conf/schedule/own.yaml").write_text("# Half\n_target_: own_schedule.Half\n")
    (tmp_path / "own_schedule.py").write_text("class Half:\n    def __call__(self, progress):\n        return 0.5\n")
    monkeypatch.chdir(tmp_path)


def test_ones_own_class_is_not_run_unless_trusted(own_schedule, capsys, tmp_path):
    assert main(["train", "schedule=own"]) == 2
    assert "schedule._target_: 'own_schedule.Half' is not under" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()


def test_a_class_in_the_working_directory_is_built_if_trusted(own_schedule, tmp_path):
    words = ["schedule=own", "trust=[own_schedule]", "method=scratch", "teacher=none", "dry_run=true"]
    ended = python("-c", "from kdrun.cli import script; script()", "train", *words, cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_real_sweep_leaves_job_records_and_a_leaderboard(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "method=scratch", "seed=0,1", "name=grid", "fast_dev_run=true"]) == 0
    assert capfd.readouterr().err == ""
    grid = tmp_path / "outputs/grid"
    assert {path.name for path in grid.iterdir() if path.is_dir()} == {"0_seed=0", "1_seed=1"}
    assert json.loads((grid / "1_seed=1/summary.json").read_text())["status"] == "done"
    assert (grid / "leaderboard.csv").is_file()
