from __future__ import annotations

import subprocess
import sys

import pytest

from kdrun.config.compose import Composer
from kdrun.config.sweep import check_jobs, jobs, sweep
from kdrun.errors import ConfigError


def test_a_sweep_is_every_combination_the_last_key_fastest():
    assert sweep(["method=scratch,kd", "seed=0,1", "epochs=3"]) == [
        ["method=scratch", "seed=0", "epochs=3"],
        ["method=scratch", "seed=1", "epochs=3"],
        ["method=kd", "seed=0", "epochs=3"],
        ["method=kd", "seed=1", "epochs=3"],
    ]


@pytest.mark.parametrize(
    ("override", "first", "count"),
    [
        ("seed=range(3)", "seed=0", 3),
        ("seed=range(1,9,4)", "seed=1", 2),
        ("optimizer.lr=choice(0.1,0.2)", "optimizer.lr=0.1", 2),
        ("method=glob([takd,fitnets])", "method=fitnets", 2),
        ("dataset.mean=[0.1],[0.2]", "dataset.mean=[0.1]", 2),
        ("optimizer.lr=interval(0.1,1)", "optimizer.lr=0.1", 2),
        ("seed=4", "seed=4", 1),
    ],
)
def test_every_kind_of_sweep_is_expanded(override, first, count):
    expanded = sweep([override])
    assert expanded[0] == [first]
    assert len(expanded) == count


def test_options_of_a_nested_place_are_swept_over():
    composer = Composer()
    configs = check_jobs(composer, jobs(composer, ["method=takd", "method.base=kd,fitnets"]), lambda config: None)
    assert [config["method"]["base"]["name"] for config in configs] == ["kd", "fitnets"]


def test_what_a_file_says_to_sweep_over_is_swept_over(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = '# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: "0,1"}}}\n'
    (tmp_path / "experiment/grid.yaml").write_text(text)
    assert sweep(["experiment=grid"], tmp_path) == [["seed=0", "experiment=grid"], ["seed=1", "experiment=grid"]]


def test_a_command_line_key_replaces_the_sweep_of_a_file(tmp_path):
    (tmp_path / "experiment").mkdir()
    text = '# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: "0,1", epochs: "3,4"}}}\n'
    (tmp_path / "experiment/grid.yaml").write_text(text)
    assert sweep(["experiment=grid", "seed=7"], tmp_path) == [
        [f"epochs={epochs}", "experiment=grid", "seed=7"] for epochs in (3, 4)
    ]


def test_one_bad_value_refuses_the_sweep_and_counts_its_jobs():
    composer = Composer()
    with pytest.raises(ConfigError) as refused:
        check_jobs(composer, jobs(composer, ["batch_size=4,0", "seed=0,1"]), lambda config: None)
    assert str(refused.value) == "batch_size: 0 is out of range [1, 1000000] (in 2 of 4 jobs)"


def test_a_bad_argument_of_a_class_refuses_the_whole_sweep_too():
    from kdrun.run.assembly import check_nodes

    composer = Composer()
    with pytest.raises(ConfigError) as refused:
        check_jobs(composer, jobs(composer, ["method.temperature=4,0"]), check_nodes)
    assert str(refused.value) == "method.temperature: 0 is out of range [0.01, 1000] (in 1 of 2 jobs)"


@pytest.mark.parametrize("overrides", [["seed=range(1000000000)"], ["seed=range(100)", "epochs=range(1,100)"]])
def test_a_sweep_of_too_many_jobs_is_refused_before_expansion(overrides):
    with pytest.raises(ConfigError, match="a sweep of more than 1000 jobs; split it"):
        sweep(overrides)


@pytest.mark.parametrize("override", ["method=glob(zz*)", "seed=range(3,3)"])
def test_a_sweep_over_no_value_is_refused(override):
    with pytest.raises(ConfigError, match="matches nothing"):
        sweep([override])


def test_a_key_that_only_the_swept_experiments_have_may_be_set():
    words = "-m experiment=resnet3_base_cifar10,resnet4_base_cifar10 student.base_width=8 dry_run=true".split()
    # In a process of its own, whose streams are its own too.
    done = subprocess.run([sys.executable, "-m", "kdrun", *words], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("moved parameters") == 2
