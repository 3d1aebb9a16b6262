"""Report 2 as experiments: nine trainings that fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import COMPOSER

from kdrun.config.nodes import architecture, without_names
from kdrun.config.sweep import sweep

DEPTHS = (3, 4, 5, 6)
CLAIMS = {3: (0.64, 0.67), 4: (0.70, 0.76), 5: (0.82, 0.84), 6: (0.87, 0.87)}


def config(name: str, *more: str) -> dict[str, Any]:
    return COMPOSER.compose([f"experiment={name}", *more])


@pytest.mark.parametrize("depth", DEPTHS)
def test_base_and_kd_differ_in_teacher_and_method_alone(depth: int) -> None:
    base, kd = config(f"resnet{depth}_base_cifar10"), config(f"resnet{depth}_kd_cifar10")
    assert {key for key in base if base[key] != kd[key]} == {"teacher", "method", "claims", "experiment"}
    assert kd["student"]["depth"] == depth
    assert kd["claims"][f"resnet{depth}"] == dict(zip(("base", "kd"), CLAIMS[depth], strict=True))


def test_the_split_is_80_to_20_and_the_weights_the_tutorials() -> None:
    kd = config("resnet3_kd_cifar10")
    assert kd["dataset"]["val_fraction"] == 0.2
    method = kd["method"]
    assert [method[key] for key in ("ce_weight", "kd_weight", "temperature", "t_squared", "form")] == [
        0.75,
        0.25,
        2.0,
        True,
        "forward",
    ]
    assert (kd["seed"], kd["batch_size"], kd["optimizer"]["lr"]) == (42, 128, 1e-3)


def test_the_common_teacher_is_trained_as_in_its_own_experiment() -> None:
    own, kd = config("resnet10_cifar10"), config("resnet6_kd_cifar10")
    assert architecture(own["student"]) == architecture(kd["teacher"])
    assert own["seed"] == kd["teacher"]["seed"]
    assert own["dataset"] == kd["dataset"]
    recipe = {key: own[key] for key in ("epochs", "batch_size", "optimizer", "schedule")} | {"stop_at": None}
    assert without_names(recipe) == without_names(kd["teacher"]["recipe"])


def test_the_sweep_is_the_four_kd_experiments(tmp_path: Path) -> None:
    jobs = sweep(["experiment=resnet_kd_cifar10"])
    assert len(jobs) == 4
    for depth, job in zip(DEPTHS, jobs, strict=True):
        one, single = COMPOSER.compose(job), config(f"resnet{depth}_kd_cifar10")
        assert {key for key in one if one[key] != single[key]} == {"claims", "experiment"}


def test_seeds_on_the_command_line_multiply_the_sweep() -> None:
    assert len(sweep(["experiment=resnet_kd_cifar10", "seed=42,43,44"])) == 12
