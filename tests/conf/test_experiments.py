"""Every experiment that is shipped, on made-up images of its data set's shape: two steps a stage, and its figures."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import COMPOSER, setting

from kdrun.config.build import Builder
from kdrun.config.places import CONF
from kdrun.config.sweep import jobs
from kdrun.run.assembly import check_nodes
from kdrun.run.run import run
from kdrun.store.record import Record, read_rows

EXPERIMENTS = COMPOSER.options.names("experiment")
DATASETS = ("mnist", "notmnist", "svhn")
STUDENTS = ("resnet3", "resnet4", "resnet5", "resnet6")

COMPARISONS = [f"compare_{dataset}" for dataset in ("mnist", "cifar10", "cifar100")]

WANTED = {
    *(f"{method}_{dataset}" for method in ("kd", "adv_basic", "gan", "wgan") for dataset in DATASETS),
    *("wgan_gp_mnist", "cgan_cifar10", "fitnets_mnist"),
    *("resnet10_cifar10", "resnet_kd_cifar10"),
    *(f"{student}_{kind}_cifar10" for student in STUDENTS for kind in ("base", "kd")),
    *("hard_cifar10", "soft_cifar10", "selfdistill_cifar10", "byot_resnet18_cifar100"),
    *(f"ae_exp{number}_cityscapes" for number in range(4)),
    "ae_exp1_asrun",
    *("temperature_mnist", "fmnist_student_alone", "fmnist_kd_t10", "fmnist_kd_t10_asrun"),
    *("lenet_cifar10", "lenet_kd_cifar10", "zskd_mnist", "zskd_fmnist", "zskd_cifar10"),
    *(
        f"{method}_{dataset}"
        for method in ("blkd", "takd", "rekd", "dekd", "wskd", "gskd")
        for dataset in ("mnist", "cifar10", "cifar100")
    ),
    *("gskd_asrun_cifar10", "takd_asrun_cifar10", "gskd_newteacher_cifar10"),
    *("hard_teacher_cifar10", "zskd_mnist_asrun", "ae_exp2_only23_cityscapes", *COMPARISONS),
    *("tfkd_self_cifar100", "tfkd_reg_cifar100", "lowdata_kd_mnist"),
    *("tutorial_kd_cifar10", "tutorial_cosine_cifar10", "tutorial_hint_cifar10"),
}

TRANSFORMS = ("channels", "size", "mean", "std", "crop", "flip", "pad_to", "val_fraction")
"""What made-up images take over from those that they stand for."""

SHORT = {"device": "cpu", "fast_dev_run": True, "batch_size": 8}
NARROW = {"width": 8, "base_width": 8, "widen": 1}
"""Of the models that have a width, so that thousands of channels are not waited for."""


def methods() -> dict[str, str]:
    """The first experiment of each method: drawing is most of what such a short run costs, so only these draw."""
    first: dict[str, str] = {}
    for name in EXPERIMENTS:
        first.setdefault(COMPOSER.compose(next(iter(jobs(COMPOSER, [f"experiment={name}"]))))["method"]["name"], name)
    return first


def rehearsed(overrides: list[str], out: Path) -> dict[str, Any]:
    """The config of a job, its data set made up, everything cut to two steps of eight images."""
    config = {**COMPOSER.compose(overrides), **SHORT, "out": str(out)}
    data = config["dataset"]
    pairs = Builder().target(data, "dataset").task == "translation"
    synthetic = COMPOSER.compose(["dataset=synthetic_pairs" if pairs else "dataset=synthetic"])["dataset"]
    taken = {key: data[key] for key in TRANSFORMS if key in data}
    taken |= {} if pairs else {"classes": data["classes"]}
    counts = {"train_count": 60, "test_count": 20, "train_size": 32 if data["train_size"] else None}
    config["dataset"] = {**synthetic, **taken, **counts}
    if config["teacher"]:
        config["teacher"]["recipe"]["batch_size"] = 8
    if "count" in config["method"]:
        config["method"]["count"] = 40  # images to be made up
    return narrowed(config)


def narrowed(node: Any) -> Any:
    """The config with every model's width cut down."""
    if isinstance(node, dict):
        cut = {key: NARROW[key] for key in NARROW if key in node and "taps" in node}
        return {key: narrowed(value) for key, value in node.items()} | cut
    return [narrowed(value) for value in node] if isinstance(node, list) else node


METHODS = methods()

OTHERS = {
    "method": ("scratch", "kd_sum"),
    **{f"{prefix}optimizer": ("sgd_plain", "adam") for prefix in ("", "teacher.recipe.")},
    **{f"{prefix}schedule": ("step_mnist", "cosine") for prefix in ("", "teacher.recipe.")},
}
"""Options for each place where an experiment's keys are those of its own option."""


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that experiments which share a teacher train it once here too."""
    return tmp_path_factory.mktemp("experiments")


def test_every_experiment_of_the_five_reports_is_there() -> None:
    assert WANTED - set(EXPERIMENTS) == set()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_another_option_in_an_experiment_has_its_own_settings(name: str) -> None:
    first = next(iter(jobs(COMPOSER, [f"experiment={name}"])))
    as_it_is = COMPOSER.compose(first)
    places = [place for place in OTHERS if as_it_is["teacher"] or not place.startswith("teacher")]
    theirs = {place: setting(as_it_is, place)["name"] for place in places}
    others = {place: next(option for option in OTHERS[place] if option != theirs[place]) for place in places}
    under, same = (
        COMPOSER.compose([*first, *(f"{place}={option}" for place, option in chosen.items())])
        for chosen in (others, theirs)
    )
    for place, other in others.items():
        assert setting(under, place) == plain(place, other)
        assert setting(same, place) == setting(as_it_is, place)


@cache
def plain(place: str, option: str) -> dict[str, Any]:
    """The settings of an option without an experiment."""
    return setting(COMPOSER.compose([f"{place}={option}"]), place)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_header_names_its_source_and_its_command(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text("utf-8").splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert lines[0] == "# @package _global_"
    assert "Source: " in header
    assert re.search(rf"^#   kdrun (train|-m) experiment={name}\b", header, re.MULTILINE)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_rehearses_all_stages_and_figures(
    name: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nothing here has to outlive a power cut
    plotted: list[str] = []
    if name not in METHODS.values():
        monkeypatch.setattr(Record, "figure", lambda self, label, figure: plotted.append(label))
    overrides, folder = next(iter(jobs(COMPOSER, [f"experiment={name}"]))), out / "runs" / name
    run({**rehearsed(overrides, out), "baseline": name in METHODS.values()}, folder, overrides)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "done"
    values = [value for row in read_rows(folder / "metrics.jsonl") for value in row.values()]
    assert all(math.isfinite(value) for value in values if type(value) is float)
    pictures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert "curves" in {*plotted, *pictures}
    assert pictures <= listed(folder)


def listed(folder: Path) -> set[str]:
    """The names of the pictures that TensorBoard shows of a run."""
    tags = EventAccumulator(str(folder), size_guidance={"images": 1}).Reload().Tags()["images"]
    return {tag.replace("/", "-") for tag in tags}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_further_job_of_a_sweep_fits_together(name: str, out: Path) -> None:
    for number, overrides in enumerate(jobs(COMPOSER, [f"experiment={name}"])[1:]):
        config = rehearsed(overrides, out)
        check_nodes(config)
        run({**config, "dry_run": True}, out / "dry" / f"{name}-{number}", overrides)
