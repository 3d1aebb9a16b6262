"""Every experiment that is shipped, on made-up images of its data set's shape: two steps a stage, and its figures."""

from __future__ import annotations

import json
import math
import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import COMPOSER

from kdrun.assembly import check_nodes
from kdrun.config.build import target
from kdrun.config.places import CONF
from kdrun.config.sweep import jobs
from kdrun.record import Record, read_rows
from kdrun.run import run

EXPERIMENTS = COMPOSER.options.names("experiment")
DATASETS = ("mnist", "notmnist", "svhn")
STUDENTS = ("resnet3", "resnet4", "resnet5", "resnet6")

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
    *("hard_teacher_cifar10", "zskd_mnist_asrun", "ae_exp2_only23_cityscapes", "compare_cifar10", "compare_cifar100"),
    *("tfkd_self_cifar100", "tfkd_reg_cifar100", "lowdata_kd_mnist"),
    *("tutorial_kd_cifar10", "tutorial_cosine_cifar10", "tutorial_hint_cifar10"),
}

SETTINGS: dict[str, dict[str, Any]] = {
    "kd_mnist": {"method.name": "kd_sum", "teacher.name": "mlp_1200", "student.name": "mlp_800"},
    "adv_basic_mnist": {"method.form": "non_saturating", "method.init_from_s0": False},
    "wgan_mnist": {"method.lipschitz": "clip", "method.critic_steps": 1},
    "wgan_gp_mnist": {"method.lipschitz": "gp", "method.penalty": 10.0, "method.critic_steps": 1},
    "fitnets_mnist": {
        "teacher.name": "maxout3",
        "student.name": "maxout6",
        **{"method.hint": 1, "method.guided": 3, "method.regressor": "maxout", "method.temperature": 3.0},
        **{"method.kd_weight": 4.0, "method.decay_start": 5, "optimizer.lr": 5e-4, "batch_size": 128},
    },
    **{
        f"{student}_kd_cifar10": {"teacher.name": "resnet10", "student.name": student, "dataset.val_fraction": 0.2}
        for student in STUDENTS
    },
    "hard_cifar10": {"method.name": "scratch"},
    "hard_teacher_cifar10": {"method.name": "kd_hard", "teacher.name": "deep_cnn", "student.name": "light_cnn"},
    "soft_cifar10": {"method.ce_weight": 0.1, "method.kd_weight": 0.9, "method.temperature": 4.0},
    "selfdistill_cifar10": {
        **{"method.ce_weight": 0.8, "method.kd_weight": 0.2, "method.temperature": 3.0, "method.feature_weight": 0.5},
        **{"method.detach_deepest": True, "optimizer.lr": 7e-4, "batch_size": 100, "epochs": 50},
    },
    "ae_exp0_cityscapes": {"method.link_weight": 0.0},
    "ae_exp1_cityscapes": {"method.links": [[0, 8]], "method.bridge": "maxpool", "method.link_weight": 0.2},
    "ae_exp2_cityscapes": {"method.links": [[0, 8], [1, 7]], "method.bridge": "maxpool"},
    "ae_exp2_only23_cityscapes": {"method.links": [[1, 7]], "method.bridge": "maxpool"},
    "ae_exp3_cityscapes": {"method.links": [[0, 8]], "method.bridge": "conv"},
    "fmnist_kd_t10": {"method.temperature": 10.0, "teacher.name": "mnist_cnn", "student.name": "mlp_32"},
    "fmnist_kd_t10_asrun": {"method.name": "kd_softened_hard", "method.temperature": 10.0},
    "zskd_mnist": {"method.temperature": 20.0, "method.count": 4000, "method.lr": 0.1, "method.constraint": "clamp"},
    "zskd_mnist_asrun": {"method.student_loss": "bce", "method.within": "column", "method.constraint": "none"},
    "rekd_cifar10": {"teacher.name": "resnet8", "student.name": "resnet26", "method.temperature": 20.0},
    "dekd_cifar10": {"teacher.recipe.epochs": 1, "method.kd_weight": 0.95, "method.temperature": 20.0},
    "takd_asrun_cifar10": {"method.base.reduction": "mean", "schedule.milestones": [0.75], "dataset.crop": 0},
    "gskd_asrun_cifar10": {
        **{"method.reduction": "mean", "method.base.reduction": "mean", "method.previous_weight": 0.05},
        **{"method.base.kd_weight": 0.1, "method.base.ce_weight": 0.9, "schedule.milestones": [0.75]},
    },
    "lowdata_kd_mnist": {"dataset.train_size": 2000},
}
"""What the reports and the code of their authors fix, whatever else an experiment chooses."""

LOOK = ("channels", "size", "mean", "std", "crop", "flip", "pad_to", "val_fraction")
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


def tried(overrides: list[str], out: Path) -> dict[str, Any]:
    """The config of a job, its data set made up, everything cut to two steps of eight images."""
    config = {**COMPOSER.compose(overrides), **SHORT, "out": str(out)}
    data = config["dataset"]
    pairs = target(data, "dataset").task == "translation"
    made_up = COMPOSER.compose(["dataset=synthetic_pairs" if pairs else "dataset=synthetic"])["dataset"]
    taken = {key: data[key] for key in LOOK if key in data}
    taken |= {} if pairs else {"classes": data["classes"]}
    few = {"train_count": 60, "test_count": 20, "train_size": 32 if data["train_size"] else None}
    config["dataset"] = {**made_up, **taken, **few}
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


@pytest.mark.parametrize(("name", "fixed"), SETTINGS.items())
def test_an_experiment_has_the_settings_of_its_source(name: str, fixed: dict[str, Any]) -> None:
    config = COMPOSER.compose(next(iter(jobs(COMPOSER, [f"experiment={name}"]))))
    assert {key: setting(config, key) for key in fixed} == fixed


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_another_option_than_the_experiments_comes_with_its_own_settings(name: str) -> None:
    first = next(iter(jobs(COMPOSER, [f"experiment={name}"])))
    as_it_is = COMPOSER.compose(first)
    for place, options in OTHERS.items():
        if as_it_is["teacher"] or not place.startswith("teacher"):
            theirs = setting(as_it_is, place)["name"]
            other = next(option for option in options if option != theirs)
            plain, under, same = (
                setting(COMPOSER.compose(words), place)
                for words in ([f"{place}={other}"], [*first, f"{place}={other}"], [*first, f"{place}={theirs}"])
            )
            assert under == plain
            assert same == setting(as_it_is, place)


def setting(config: dict[str, Any], key: str) -> Any:
    """What a composed config has under a dotted key."""
    return reduce(lambda node, part: node[part], key.split("."), config)


@pytest.mark.parametrize("dataset", ["mnist", "cifar10", "cifar100"])
def test_the_teacher_of_reversed_distillation_is_smaller_and_that_of_defective_is_hardly_trained(dataset: str) -> None:
    small, poor = (COMPOSER.compose([f"experiment={name}_{dataset}"]) for name in ("rekd", "dekd"))
    assert small["teacher"]["depth"] < small["student"]["depth"]
    assert poor["teacher"]["recipe"]["epochs"] == 1


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_header_names_its_source_and_the_command_that_runs_it(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text("utf-8").splitlines()
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert lines[0] == "# @package _global_"
    assert "Source: " in header
    assert re.search(rf"^#   kdrun (train|-m) experiment={name}\b", header, re.MULTILINE)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_trains_two_steps_of_every_stage_and_shows_its_figures(
    name: str, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)  # nothing here has to outlive a power cut
    drawn: list[str] = []
    if name not in METHODS.values():
        monkeypatch.setattr(Record, "figure", lambda self, label, figure: drawn.append(label))
    overrides, folder = next(iter(jobs(COMPOSER, [f"experiment={name}"]))), out / "runs" / name
    run({**tried(overrides, out), "baseline": name in METHODS.values()}, folder, overrides)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["status"] == "done"
    values = [value for row in read_rows(folder / "metrics.jsonl") for value in row.values()]
    assert all(math.isfinite(value) for value in values if type(value) is float)
    pictures = {path.stem for path in (folder / "figures").glob("*.png")}
    assert "curves" in {*drawn, *pictures}
    assert pictures <= shown(folder)


def shown(folder: Path) -> set[str]:
    """The names of the pictures that TensorBoard shows of a run."""
    tags = EventAccumulator(str(folder), size_guidance={"images": 1}).Reload().Tags()["images"]
    return {tag.replace("/", "-") for tag in tags}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_further_job_of_a_sweep_fits_together(name: str, out: Path) -> None:
    for number, overrides in enumerate(jobs(COMPOSER, [f"experiment={name}"])[1:]):
        config = tried(overrides, out)
        check_nodes(config)
        run({**config, "dry_run": True}, out / "dry" / f"{name}-{number}", overrides)
