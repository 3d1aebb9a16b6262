from __future__ import annotations

import math

import pytest

from kdrun.config.compose import compose
from kdrun.train.schedules import Constant, Cosine, Steps


def test_the_mnist_example_schedule_falls_once_an_epoch():
    node = compose(["schedule=step_mnist"])["schedule"]
    steps = Steps(node["milestones"], node["factor"])
    for batches in (1, 844, 938):
        factors = [steps(done / (14 * batches)) for done in range(14 * batches)]
        assert factors == pytest.approx([0.7 ** (done // batches) for done in range(14 * batches)])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}),
        ("sgd_plain", {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}),
        ("adam", {"lr": 1e-3, "betas": [0.9, 0.999], "weight_decay": 0.0}),
        ("rmsprop_fitnets", {"lr": 5e-4, "alpha": 0.9, "momentum": 0.0}),
    ],
)
def test_an_optimizer_has_the_settings_that_its_file_speaks_of(name, settings):
    node = compose([f"optimizer={name}"])["optimizer"]
    assert {key: node[key] for key in settings} == settings


def test_constant_leaves_the_rate_as_it_is():
    assert {Constant()(progress / 10) for progress in range(11)} == {1.0}


def test_cosine_falls_from_one_to_zero_through_a_half():
    assert [Cosine()(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
    assert Cosine()(1 / 3) == pytest.approx(math.cos(math.pi / 6) ** 2)


@pytest.mark.parametrize("schedule", [Cosine(warmup=0.2), Steps([0.5], 0.1, warmup=0.2)])
def test_warmup_rises_linearly_and_joins_without_a_jump(schedule):
    assert [schedule(progress) for progress in (0.0, 0.05, 0.1)] == pytest.approx([0.0, 0.25, 0.5])
    assert schedule(0.2) == pytest.approx(1.0)
    assert schedule(0.2 - 1e-9) == pytest.approx(1.0)


def test_steps_fall_at_each_milestone_and_nowhere_else():
    steps = Steps([0.75, 0.5], factor=0.1)
    assert [steps(progress) for progress in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)] == pytest.approx(
        [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    )
