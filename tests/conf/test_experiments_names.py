"""What the name of an experiment promises, and the numbers that its source prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tiny import COMPOSER

from kdrun.config.places import CONF
from kdrun.config.sweep import jobs

EXPERIMENTS = COMPOSER.options.names("experiment")

OWN = "adv_basic|gan|wgan|wgan_gp|cgan|fitnets|blkd|rekd|dekd|wskd|gskd|temperature|zskd|tfkd_self|tfkd_reg"
METHODS = {
    rf"({OWN})_[a-z0-9]+": None,
    r"kd_[a-z]+": "kd_sum",
    r"(lowdata|lenet|tutorial)_kd_[a-z0-9]+": "kd",
    r"resnet[3-6]?_kd_cifar10": "kd",
    r"soft_cifar10|fmnist_kd_t10": "kd",
    r"(hard|lenet|resnet10|resnet[3-6]_base)_cifar10|fmnist_student_alone": "scratch",
    r"hard_teacher_cifar10": "kd_hard",
    r"fmnist_kd_t10_asrun": "kd_softened_hard",
    r"zskd_mnist_asrun": "zskd_asrun",
    r"gskd_(asrun|newteacher)_cifar10": "gskd",
    r"takd_(asrun_)?[a-z0-9]+": "takd_resnet",
    r"compare_[a-z0-9]+": "blkd",
    r"ae_exp[0-3]_(asrun|cityscapes|only23_cityscapes)": "ae_cross",
    r"selfdistill_cifar10": "self_distill",
    r"byot_resnet18_cifar100": "byot",
    r"tutorial_hint_cifar10": "hint_joint",
    r"tutorial_cosine_cifar10": "cosine",
}
"""Patterns of names, and the method that is meant: what the pattern's first group says where None."""

DATASETS = {name: name for name in ("mnist", "notmnist", "svhn", "cifar10", "cifar100", "cityscapes")}
DATASETS |= {"fmnist": "fashionmnist"}

OF_LENET = {"lenet5": 0.4441, "lenet5_half": {"kd": 0.4427}}
OF_TINY = {"mnist_cnn": 0.9078, "mlp_32": {"base": 0.9815, "kd": 0.9107}}
CLAIMED: dict[str, dict[str, Any]] = {
    **{f"fmnist_{name}": OF_TINY for name in ("kd_t10", "kd_t10_asrun", "student_alone")},
    **{f"lenet_{name}": OF_LENET for name in ("cifar10", "kd_cifar10")},
    **{f"zskd_{name}": {"lenet5": 0.9891} for name in ("mnist", "fmnist", "mnist_asrun")},
    "gskd_asrun_cifar10": {
        "resnet14": {"blkd": 0.8807},
        "resnet20": {"blkd": 0.89},
        "resnet26": {"blkd": 0.892, "gskd": 0.8931, "link2_resnet14/top1": 0.8803, "link3_resnet20/top1": 0.8906},
    },
    "byot_resnet18_cifar100": {
        "byot_resnet18": {
            **{f"classifier{place}/top1": top1 for place, top1 in enumerate((0.6785, 0.7457, 0.7823, 0.7864), 1)},
            "byot": 0.7864,
        }
    },
    **{f"tfkd_{name}_cifar100": {"torchvision": 0.7587} for name in ("self", "reg")},
}
"""What reports 4 and 5 and papers print; a number alone is the net's by the labels. Report 2 is tested apart."""


def first(name: str) -> dict[str, Any]:
    """The config of the experiment's first job."""
    return COMPOSER.compose(next(iter(jobs(COMPOSER, [f"experiment={name}"]))))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs_the_method_and_data_set_of_its_name(name: str) -> None:
    config, matches = first(name), [match for each in METHODS if (match := re.fullmatch(each, name))]
    assert len(matches) == 1
    assert config["method"]["name"] == (METHODS[matches[0].re.pattern] or matches[0][1])
    unsaid = {"cityscapes"} if name == "ae_exp1_asrun" else set()
    assert {DATASETS[word] for word in name.split("_") if word in DATASETS} | unsaid == {config["dataset"]["name"]}


@pytest.mark.parametrize(("name", "claims"), CLAIMED.items(), ids=CLAIMED.keys())
def test_the_claims_are_the_numbers_that_the_source_prints(name: str, claims: dict[str, Any]) -> None:
    recorded = first(name)["claims"]
    numbers = {net: {key: value for key, value in recorded[net].items() if key != "implausible"} for net in recorded}
    assert numbers == {net: value if isinstance(value, dict) else {"base": value} for net, value in claims.items()}


def test_exactly_the_impossible_claims_are_marked_implausible() -> None:
    marked = {
        (name, net)
        for name in EXPERIMENTS
        for net, value in (first(name)["claims"] or {}).items()
        if isinstance(value, dict) and "implausible" in value
    }
    tiny = {(f"fmnist_{name}", "mlp_32") for name in ("kd_t10", "kd_t10_asrun", "student_alone")}
    lenets = {("lenet_cifar10", "lenet5"), ("lenet_kd_cifar10", "lenet5"), ("zskd_fmnist", "lenet5")}
    assert marked == tiny | lenets


FILES = sorted((CONF / "experiment").glob("*.yaml"))


def raw(path: Path) -> dict[Any, Any]:
    """What a file says, and nothing of what it builds on."""
    content = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(content, dict)
    return content


def built_on(path: Path) -> list[str]:
    return [each for each in raw(path).get("defaults", []) if isinstance(each, str)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_experiment_restates_no_default(path: Path) -> None:
    content, root = raw(path), raw(CONF / "train.yaml")
    options = {
        f"override /{key}": value for each in root["defaults"] if isinstance(each, dict) for key, value in each.items()
    }
    assert "claims" not in content or content["claims"]
    if not built_on(path):  # what it builds on may have said otherwise
        assert {key for key in content if key in root and content[key] == root[key]} == set()
        overrides = [pair for each in content.get("defaults", []) for pair in each.items()]
        chosen = {key.removeprefix("override /"): value for key, value in overrides}
        assert {key for key in chosen if options.get(key) == chosen[key]} == set()


@pytest.mark.parametrize("path", [path for path in FILES if path.stem[0] == "_"], ids=lambda path: path.stem)
def test_a_base_file_is_built_on_more_than_once(path: Path) -> None:
    assert sum(path.stem in built_on(other) for other in FILES) > 1
