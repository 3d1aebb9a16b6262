"""Hydra's own section, from words and from files: little of it is taken, and the rest is refused by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kdrun.cli import main
from kdrun.config.compose import Composer
from kdrun.config.hydra_keys import check_section
from kdrun.config.options import Options
from kdrun.errors import ConfigError

OPTIONS = Options()

REFUSED = [
    "hydra.foo=1",
    "+hydra.foo=1",
    "++hydra.foo.bar=1",
    "hydra={foo: 1}",
    "+hydra={callbacks: {x: {_target_: builtins.open}}}",
    "hydra.callbacks={}",
    "+hydra.callbacks.x._target_=builtins.open",
    "+hydra/callbacks=x",
    "hydra/job_logging=default",
    "hydra/hydra_logging=default",
    "hydra/env=default",
    "hydra/help=default",
    "hydra/output=default",
    "hydra/launcher/sub=x",
    "hydra/launcher@hydra.callbacks.x=basic",
    "hydra.job_logging.root.level=DEBUG",
    "+hydra.hydra_logging.handlers.f={class: logging.FileHandler}",
    "hydra.launcher._target_=os.system",
    "+hydra.launcher.setup=[touch x]",
    "+hydra.launcher.srun_args=[x]",
    "+hydra.launcher.ray.init.runtime_env={pip: [x]}",
    "+hydra.launcher.ray.init.runtime_env.pip=x",
    "+hydra.launcher.additional_parameters={x: 1}",
    "+hydra.launcher.comment='a\nb'",
    "+hydra.launcher.comment='$(touch x)'",
    "+hydra.launcher.comment='`touch x`'",
    "hydra.launcher={_target_: os.system}",
    "hydra.launcher=x",
    "hydra.sweeper._target_=os.system",
    "+hydra.sweeper.sampler._target_=os.system",
    "+hydra.sweeper.custom_search_space=os.system",
    "+hydra.sweeper.params.trust='[os]'",
    "+hydra.sweeper.params.resume='a,b'",
    "+hydra.sweeper.params={hydra.callbacks: x}",
    "+hydra.sweeper.params.hydra/launcher=x",
    "hydra.mode=WRONG",
    "hydra.output_subdir=../x",
    "hydra.searchpath=[file:///etc]",
    "+hydra.job.env_set.LD_PRELOAD=x",
    "hydra.job.env_copy=[PATH]",
    "hydra.job.chdir=true",
    "hydra.job.name=x",
    "hydra.verbose=true",
    "hydra.run.dir=x",
    "hydra.sweep.dir=x",
    "hydra.sweep.subdir=x",
    "hydra.runtime.output_dir=x",
    "hydra.overrides.task=[x]",
    "hydra.help.template=x",
    "model@hydra.launcher=cnn",
    "+optimizer@hydra=adam",
    "+experiment@_global_.hydra=takd_mnist",
]


@pytest.mark.parametrize("word", REFUSED)
def test_a_word_does_not_set_what_kdrun_sets_of_hydra(word: str) -> None:
    with pytest.raises(ConfigError) as refused:
        OPTIONS.parse(word)
    assert "hydra" in refused.value.where
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("flags", ["", "-m", "--cfg job", "--cfg hydra", "--cfg all", "--info all"])
@pytest.mark.parametrize("word", ["+hydra.foo=1", "hydra.searchpath=[file:///etc]", "+hydra.callbacks.x._target_=os.x"])
def test_a_word_of_hydras_is_refused_beside_every_flag(
    word: str, flags: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *flags.split(), word]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"kdrun: error: {word.partition('=')[0].lstrip('+')}: is set by kdrun alone")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "word",
    [
        "hydra/launcher=basic",
        "hydra/sweeper=basic",
        "hydra.launcher.n_jobs=2",
        "+hydra.launcher.partition=gpu",
        "hydra.launcher={n_jobs: 2, backend: loky}",
        "+hydra.launcher.timeout_min=60",
        "hydra.launcher.pre_dispatch='2*n_jobs'",
        "hydra.sweeper.n_trials=20",
        "hydra.sweeper.sampler.seed=3",
        "hydra.sweeper.direction=maximize",
        "hydra.sweeper.max_batch_size=null",
        "+hydra.sweeper.params.seed='0,1'",
        "hydra.mode=MULTIRUN",
    ],
)
def test_a_word_chooses_a_plugin_and_sets_its_plain_values(word: str) -> None:
    assert OPTIONS.parse(word)


X, G = "experiment/x", "# @package _global_\n"
FILES = {
    "callbacks": (
        X,
        f"{G}hydra: {{callbacks: {{a: {{_target_: builtins.open}}}}}}\n",
        "hydra.callbacks",
    ),
    "a mode and more": (
        X,
        f"{G}hydra:\n  mode: MULTIRUN\n  callbacks: {{a: 1}}\n",
        "hydra.callbacks",
    ),
    "logging": (X, f"{G}hydra: {{job_logging: {{root: {{level: DEBUG}}}}}}\n", "hydra.job_logging"),
    "a launcher's class": (X, f"{G}hydra: {{launcher: {{_target_: os.system}}}}\n", "hydra.launcher"),
    "a launcher's setup": (
        X,
        f"{G}hydra: {{launcher: {{setup: [touch x]}}}}\n",
        "hydra.launcher.setup",
    ),
    "a script's line": (
        X,
        f'{G}hydra: {{launcher: {{comment: "a\\nb"}}}}\n',
        "hydra.launcher.comment",
    ),
    "a sweeper's class": (X, f"{G}hydra: {{sweeper: {{_target_: os.system}}}}\n", "hydra.sweeper"),
    "a sweeper's sampler": (X, f"{G}hydra: {{sweeper: {{sampler: {{seed: 1}}}}}}\n", "hydra.sweeper"),
    "trust to sweep over": (
        X,
        f"{G}hydra: {{mode: MULTIRUN, sweeper: {{params: {{trust: '[os],[os,posix]'}}}}}}\n",
        "hydra.sweeper.params.trust",
    ),
    "callbacks to sweep over": (
        X,
        f"{G}hydra: {{mode: MULTIRUN, sweeper: {{params: {{hydra.callbacks.x: '1'}}}}}}\n",
        "hydra.callbacks",
    ),
    "a search path": (X, f"{G}hydra: {{searchpath: ['file:///etc']}}\n", "hydra.searchpath"),
    "folders": (X, f"{G}hydra: {{output_subdir: ../x}}\n", "hydra.output_subdir"),
    "folders of jobs": (X, f"{G}hydra: {{sweep: {{subdir: ../x}}}}\n", "hydra.sweep.subdir"),
    "the working directory": (X, f"{G}hydra: {{job: {{chdir: true}}}}\n", "hydra.job.chdir"),
    "the environment": (X, f"{G}hydra: {{job: {{env_set: {{A: b}}}}}}\n", "hydra.job.env_set"),
    "a text": (X, f"{G}hydra: x\n", "hydra"),
    "a list": (X, f"{G}hydra: [x]\n", "hydra"),
    "a method's section": ("method/x", "_target_: kdrun.methods.kd.KD\nhydra: {mode: MULTIRUN}\n", "hydra"),
    "a model's section": ("model/x", "_target_: kdrun.models.mlp.MLP\nhydra: {mode: MULTIRUN}\n", "hydra"),
    "a global method": ("method/x", f"{G}hydra: {{mode: MULTIRUN}}\n", "hydra"),
    "a package": ("optimizer/x", "# @package hydra.callbacks.x\n_target_: builtins.open\n", "hydra.callbacks.x"),
    "a package below": ("optimizer/x", "# @package _global_.hydra\nverbose: true\n", "hydra"),
    "a logging that is chosen": (
        X,
        f"{G}defaults:\n  - override /hydra/job_logging: default\n",
        "hydra/",
    ),
    "a launcher that is chosen": (
        X,
        f"{G}defaults:\n  - override /hydra/launcher: basic\n",
        "hydra/",
    ),
    "a callback that is chosen": (X, f"{G}defaults:\n  - /hydra/callbacks: mine\n", "hydra/"),
    "a file as a callback": (X, f"{G}defaults:\n  - /model@hydra.callbacks.x: cnn\n", "hydra"),
    "a file as a launcher": (X, f"{G}defaults:\n  - /model@_global_.hydra.launcher: cnn\n", "hydra"),
    "a path of Hydra's": (X, f"{G}defaults:\n  - /hydra/launcher/basic\n", "hydra/"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_does_not_set_what_kdrun_sets_of_hydra(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    option, text, named = FILES[case]
    path = tmp_path / f"conf/{option}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    monkeypatch.chdir(tmp_path)
    group, _, name = option.replace("model/", "student/").partition("/")
    for flags in ([], ["-m"], ["--cfg", "all"]):
        assert main(["train", *flags, f"{group}={name}", "dry_run=true"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"kdrun: error: {path}: ")
        assert named in err.removeprefix(f"kdrun: error: {path}: ")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["conf"]


@pytest.mark.parametrize("name", ["basic", "mine"])
def test_a_launcher_of_a_config_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "hydra/launcher").mkdir(parents=True)
    (tmp_path / f"hydra/launcher/{name}.yaml").write_text("_target_: os.system\n")
    with pytest.raises(ConfigError, match="Hydra's own options come from installed packages only"):
        Composer(tmp_path).compose(["hydra/launcher=" + name])


def test_a_config_folder_does_not_replace_the_primary_config(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("hydra: {callbacks: {x: {_target_: builtins.open}}}\nepochs: 3\n")
    assert Composer(tmp_path).compose([])["epochs"] == 20


def test_an_experiment_may_set_plain_values_of_a_launcher() -> None:
    check_section({"mode": "MULTIRUN", "launcher": {"n_jobs": 2}, "sweeper": {"params": {"seed": "0,1"}}}, "x.yaml")


def test_the_tab_key_does_not_obey_hydras_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method/kzz.yaml").write_text("a: 1\n")
    monkeypatch.setitem(os.environ, "COMP_LINE", f"kdrun train hydra.searchpath=[file://{tmp_path}] method=kz")
    assert main(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out == ""
