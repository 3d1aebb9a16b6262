"""What is not finite ends a training: it is in no checkpoint, no row and no score."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_loop import net, recipe, runtime, scored, stage_of
from tiny import Memory
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer, RMSprop

from kdrun.errors import ConfigError, TrainingError
from kdrun.train.loop import fit
from kdrun.train.metrics import finite, interval, measure
from kdrun.train.runtime import fits
from kdrun.train.stage import Step, Terms, Update

OVERFLOWS = {
    "exp_avg_sq of optimizer adam of the student": partial(Adam, lr=0.1, weight_decay=1e30),
    "square_avg of optimizer rmsprop of the student": partial(RMSprop, lr=0.1, weight_decay=1e30),
}


def values(state: object) -> list[Tensor]:
    """All floating-point tensors in a state."""
    if isinstance(state, Tensor):
        return [state] if state.is_floating_point() else []
    children = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return [tensor for child in children for tensor in values(child)]


@pytest.mark.parametrize("what", OVERFLOWS)
@pytest.mark.parametrize("save_seconds", [0.0, 1e9])
def test_an_optimizer_state_not_finite_is_never_saved(what: str, save_seconds: float) -> None:
    model, memory = net(), Memory()
    with pytest.raises(TrainingError) as caught:
        fit(stage_of(model, epochs=9), recipe(OVERFLOWS[what]), runtime(save_seconds), memory)
    assert caught.value.what.startswith(f"{what} is not finite (lr=")
    assert caught.value.what.endswith("; try a smaller learning rate or weight decay")
    assert all(tensor.isfinite().all() for state in memory.saves for tensor in values(state))


def test_a_buffer_not_finite_is_never_saved() -> None:
    model, memory = net(), Memory()

    def loss(step: Step) -> Terms:
        model(torch.full_like(step.batch.images, 1e30))  # its variance overflows
        return {"ce": F.cross_entropy(model[3](step.batch.images[:, :4]), step.batch.targets)}

    with pytest.raises(TrainingError, match=r"buffer student\.1\.running_var is not finite"):
        fit(stage_of(model, [Update(model.parameters(), loss)]), recipe(lambda p: SGD(p, lr=0.1)), runtime(), memory)
    assert memory.saves == []


def test_a_buffer_that_begins_infinite_may_stay_so() -> None:
    model = net()
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    memory = Memory()
    fit(stage_of(model), recipe(), runtime(), memory)
    assert len(memory.saves) == 1


@pytest.mark.parametrize("optimizer", [partial(Adam, lr=0.1, amsgrad=True), partial(SGD, lr=0.1)])
def test_a_state_that_is_finite_is_saved(optimizer: Callable[..., Optimizer]) -> None:
    memory = Memory()
    fit(stage_of(net()), recipe(optimizer), runtime(0.0), memory)
    assert len(memory.saves) == 2 * 5 + 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_ends_the_training(value: float) -> None:
    memory = Memory()
    with pytest.raises(TrainingError) as caught:
        fit(stage_of(net(), evaluate=scored([0.5, value]), select="top1"), recipe(), runtime(), memory)
    line = "stage distill, epoch 2: score top1 is not finite; try a smaller learning rate"
    assert str(caught.value) == line
    assert [row["epoch"] for row in memory.rows] == [1]


def test_scores_that_are_finite_are_returned() -> None:
    assert finite({"a": 0.5, "b": -1.0}, "x") == {"a": 0.5, "b": -1.0}


def test_the_psnr_of_perfect_images_is_finite() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert measure("translation", images, images)["psnr_db"] == pytest.approx(379.3, abs=0.1)
    others = images + 0.1
    expected = -10 * (others - images).square().mean().log10().item()
    assert measure("translation", others, images)["psnr_db"] == expected


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("top1", 0, 1), ("chain1_x/top1", 0, 1), ("ece", 0, 1), ("top1_teacher_wrong", 0, 1), ("loss", 0, 3.5e38)],
)
def test_every_kind_of_score_has_an_interval(name: str, low: float, high: float) -> None:
    ends = [float(end) for end in interval(name).strip("[]").split(",")]
    assert ends == [low, high]
    assert float(interval("entropy_T1").strip("[]").split(",")[0]) < -1e38


@pytest.mark.parametrize("size", [10**14, 10**20])
def test_a_lack_of_memory_is_known_in_any_words(size: int) -> None:
    with (
        pytest.raises(ConfigError, match=r"^student: it needs more memory than there is$"),
        fits("student", "it needs"),
    ):
        nn.Linear(size, 16)
    with pytest.raises(RuntimeError, match="multiplied"), fits("student", "it needs"):
        raise RuntimeError("shapes cannot be multiplied")
