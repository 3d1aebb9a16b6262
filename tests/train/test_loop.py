from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import Batches, Memory, copied, same
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from kdrun.errors import Interrupted, TrainingError
from kdrun.train.loop import fit
from kdrun.train.runtime import Runtime
from kdrun.train.stage import Batch, Scores, Stage, Terms, Update
from kdrun.train.training import Recipe

MOMENTUM = partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)


def stream(count: int = 5) -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 8, 6, generator=generator)
    return Batches([(batch, (batch.sum(1) > 0).long()) for batch in images])


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def runtime(save_seconds: float = 1e9) -> Runtime:
    return Runtime(torch.device("cpu"), save_seconds=save_seconds)


def recipe(optimizer: Callable[..., Optimizer] = MOMENTUM, schedule: Callable[[float], float] | None = None) -> Recipe:
    return Recipe(epochs=2, batch_size=8, optimizer=optimizer, schedule=schedule or (lambda progress: 1.0))


def entropy(model: nn.Module) -> Callable[[Batch, Any], Terms]:
    return lambda batch, given: {"ce": F.cross_entropy(model(batch.images), batch.targets)}


def stage_of(model: nn.Module, updates: list[Update] | None = None, **changes: Any) -> Stage:
    updates = updates or [Update(model.parameters(), entropy(model))]
    usual = {"stream": stream(), "epochs": 2}
    return Stage("distill", updates, nn.ModuleDict({"student": model}), **{**usual, **changes})


def scored(values: list[float], name: str = "top1") -> Callable[[], Scores]:
    """An evaluation that gives the values in turn."""
    left = iter(values)
    return lambda: {name: next(left)}


@pytest.mark.parametrize(
    "optimizer", [MOMENTUM, partial(SGD, lr=0.1, nesterov=True, momentum=0.5), partial(Adam, lr=0.01)]
)
def test_one_update_is_torch_by_hand_to_the_last_bit(optimizer: Callable[..., Optimizer]) -> None:
    model, by_hand = net(), net()
    fit(stage_of(model), recipe(optimizer), runtime(), Memory())
    other = optimizer(by_hand.parameters())
    for _ in range(2):
        for images, targets in stream().pairs:
            other.zero_grad()
            F.cross_entropy(by_hand(images), targets).backward()
            other.step()
    assert same(copied(model), copied(by_hand))


def test_several_terms_go_down_as_their_sum() -> None:
    model, by_hand = net(), net()

    def loss(batch: Batch, given: Any) -> Terms:
        logits = model(batch.images)
        return {"ce": 0.5 * F.cross_entropy(logits, batch.targets), "size": 0.1 * logits.square().mean()}

    fit(stage_of(model, [Update(model.parameters(), loss)], epochs=1), recipe(), runtime(), Memory())
    other = MOMENTUM(by_hand.parameters())
    for images, targets in stream().pairs:
        other.zero_grad()
        logits = by_hand(images)
        (0.5 * F.cross_entropy(logits, targets) + 0.1 * logits.square().mean()).backward()
        other.step()
    assert same(copied(model), copied(by_hand))


def players() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(1)
    return nn.Linear(6, 3), nn.Linear(3, 1)


def test_an_update_leaves_other_players_weights_and_gradients() -> None:
    maker, judge = players()
    before = copied(judge)
    update = Update(maker.parameters(), lambda batch, given: {"fool": judge(maker(batch.images)).mean()})
    modules = nn.ModuleDict({"maker": maker, "judge": judge})
    fit(Stage("game", [update], modules, stream(), 1), recipe(), runtime(), Memory())
    assert same(copied(judge), before)
    assert [parameter.grad for parameter in judge.parameters()] == [None, None]
    assert all(parameter.grad is not None for parameter in maker.parameters())


def test_two_players_move_in_turn_as_by_hand() -> None:
    maker, judge = players()
    by_hand = deepcopy((maker, judge))
    updates = [
        Update(maker.parameters(), lambda batch, given: {"fool": -judge(maker(batch.images)).mean()}),
        Update(judge.parameters(), lambda batch, given: {"tell": judge(maker(batch.images)).square().mean()}),
    ]
    modules = nn.ModuleDict({"maker": maker, "judge": judge})
    fit(Stage("game", updates, modules, stream(), 1), recipe(), runtime(), Memory())
    first, second = MOMENTUM(by_hand[0].parameters()), MOMENTUM(by_hand[1].parameters())
    for images, _ in stream().pairs:
        gradients = torch.autograd.grad(-by_hand[1](by_hand[0](images)).mean(), list(by_hand[0].parameters()))
        for parameter, gradient in zip(by_hand[0].parameters(), gradients, strict=True):
            parameter.grad = gradient
        first.step()
        loss = by_hand[1](by_hand[0](images).detach()).square().mean()  # sees the step just made
        second.zero_grad()
        loss.backward()
        second.step()
    assert same(copied(maker), copied(by_hand[0]))
    assert same(copied(judge), copied(by_hand[1]))


def test_a_loss_without_terms_makes_no_step() -> None:
    model, by_hand = net(), net()

    def loss(batch: Batch, given: Any) -> Terms:
        return entropy(model)(batch, given) if batch.epoch == 1 else {}

    memory = Memory()
    fit(stage_of(model, [Update(model.parameters(), loss)], epochs=3), recipe(), runtime(), memory)
    fit(stage_of(by_hand, epochs=1), recipe(), runtime(), Memory())
    assert same(copied(model), copied(by_hand))  # momentum alone would have moved it on
    assert "loss/ce" in memory.rows[0]
    assert "loss/ce" not in memory.rows[1]


def test_an_update_is_repeated_on_the_same_batch() -> None:
    model, by_hand, seen = net(), net(), []

    def loss(batch: Batch, given: Any) -> Terms:
        seen.append(batch)
        return entropy(model)(batch, given)

    fit(stage_of(model, [Update(model.parameters(), loss, repeat=3)], epochs=1), recipe(), runtime(), Memory())
    other = MOMENTUM(by_hand.parameters())
    for images, targets in stream().pairs:
        for _ in range(3):
            other.zero_grad()
            F.cross_entropy(by_hand(images), targets).backward()
            other.step()
    assert same(copied(model), copied(by_hand))
    assert [[id(batch) for batch in seen].count(id(batch)) for batch in seen[::3]] == [3] * 5


def test_after_step_runs_after_every_step_without_gradients() -> None:
    model, largest = nn.Linear(6, 2), []

    def clip() -> None:
        assert not torch.is_grad_enabled()
        largest.append(max(float(parameter.abs().max()) for parameter in model.parameters()))
        for parameter in model.parameters():
            parameter.clamp_(-0.0625, 0.0625)

    update = Update(model.parameters(), entropy(model), repeat=2, after_step=clip)
    fit(stage_of(model, [update], epochs=1), recipe(), runtime(), Memory())
    assert len(largest) == 10
    assert max(largest) > 0.0625
    assert all(float(parameter.detach().abs().max()) <= 0.0625 for parameter in model.parameters())


def test_the_schedule_scales_every_rate_by_the_stages_progress() -> None:
    model, seen, rates = net(), [], []

    def schedule(progress: float) -> float:
        seen.append(progress)
        return 1 - progress

    def grouped(parameters: list[nn.Parameter]) -> Optimizer:
        made = SGD([{"params": parameters[:2], "lr": 0.5}, {"params": parameters[2:]}], lr=0.1)
        step = made.step
        made.step = lambda: rates.append([group["lr"] for group in made.param_groups]) or step()  # type: ignore[assignment]
        return made

    memory = Memory()
    fit(stage_of(model), recipe(grouped, schedule), runtime(), memory)
    assert seen == pytest.approx([step / 10 for step in range(10)])
    expected = [[rate * (1 - step / 10) for rate in (0.5, 0.1)] for step in range(10)]
    torch.testing.assert_close(torch.tensor(rates), torch.tensor(expected))
    assert [row["lr/0"] for row in memory.rows] == pytest.approx([0.5 * 0.6, 0.5 * 0.1])


def test_a_schedule_leaves_the_rate_of_unscheduled_updates() -> None:
    model, memory = net(), Memory()
    update = Update(model.parameters(), entropy(model), partial(SGD, lr=0.25), scheduled=False)
    fit(stage_of(model, [update]), recipe(schedule=lambda progress: 1 - progress), runtime(), memory)
    assert [row["lr/0"] for row in memory.rows] == [0.25, 0.25]


def test_an_update_may_bring_its_own_optimizer() -> None:
    model, other = nn.Linear(6, 2), nn.Linear(6, 2)
    before = copied(other)
    updates = [
        Update(model.parameters(), entropy(model)),
        Update(other.parameters(), entropy(other), partial(SGD, lr=0.0)),
    ]
    memory = Memory()
    modules = nn.ModuleDict({"one": model, "two": other})
    fit(Stage("both", updates, modules, stream(), 1), recipe(), runtime(), memory)
    assert same(copied(other), before)
    assert (memory.rows[0]["lr/0"], memory.rows[0]["lr/1"]) == (0.1, 0.0)


def test_an_update_may_reuse_the_optimizer_of_an_earlier_one() -> None:
    model, by_hand = net(), net()
    first = Update(model.parameters(), entropy(model))

    def again(batch: Batch, given: Any) -> Terms:
        return {"half": 0.5 * F.cross_entropy(model(batch.images[:4]), batch.targets[:4])}

    fit(stage_of(model, [first, Update([], again, first)], epochs=1), recipe(), runtime(), Memory())
    other = MOMENTUM(by_hand.parameters())
    for images, targets in stream().pairs:
        for count, weight in ((8, 1.0), (4, 0.5)):
            other.zero_grad()
            (weight * F.cross_entropy(by_hand(images[:count]), targets[:count])).backward()
            other.step()
    assert same(copied(model), copied(by_hand))


def test_frozen_models_run_once_a_batch_without_gradients() -> None:
    model, asked, heard = net(), [], []

    def given(batch: Batch) -> Tensor:
        assert not torch.is_grad_enabled()
        asked.append(batch)
        return model(batch.images)

    def loss(batch: Batch, said: Tensor) -> Terms:
        assert not said.requires_grad
        heard.append(id(said))
        return {"ce": F.mse_loss(model(batch.images), said + 1)}

    updates = [Update(model.parameters(), loss, repeat=2), Update(model.parameters(), loss)]
    fit(stage_of(model, updates, epochs=1, given=given), recipe(), runtime(), Memory())
    assert len(asked) == 5
    assert len(heard) == 15
    assert all(len(set(heard[place : place + 3])) == 1 for place in range(0, 15, 3))


@pytest.mark.parametrize("at", [None, 3, 7])
def test_images_for_frozen_models_are_counted_over_interruptions(at: int | None) -> None:
    shown = 100  # before this stage

    def given(batch: Batch) -> None:
        nonlocal shown
        shown += len(batch.images)

    stopping, memory = runtime(), Memory()
    if at:
        memory.stop = (stopping, at)
        with pytest.raises(Interrupted):
            fit(stage_of(net(), given=given, asked=lambda: shown), recipe(), stopping, memory)
        shown += 1000  # by someone else
    stage = stage_of(net(), given=given, asked=lambda: shown)
    assert fit(stage, recipe(), runtime(), Memory(memory.state))["asked"] == 2 * 5 * 8


def test_frozen_models_answer_in_the_runs_precision() -> None:
    model, frozen, dtypes = net(), nn.Linear(6, 2), []

    def loss(batch: Batch, given: Any) -> Terms:
        dtypes.append(given.dtype)
        return entropy(model)(batch, given)

    stage = stage_of(model, [Update(model.parameters(), loss)], given=lambda batch: frozen(batch.images))
    fit(stage, recipe(), Runtime(torch.device("cpu"), precision="bf16"), Memory())
    assert set(dtypes) == {torch.bfloat16}


def test_losses_are_computed_in_the_precision_that_was_asked_for() -> None:
    model, kinds = nn.Linear(6, 2), []

    def loss(batch: Batch, given: Any) -> Terms:
        kinds.append(model(batch.images).dtype)
        return entropy(model)(batch, given)

    stage = stage_of(model, [Update(model.parameters(), loss)], epochs=1)
    fit(stage, recipe(), Runtime(torch.device("cpu"), precision="bf16"), Memory())
    assert set(kinds) == {torch.bfloat16}
    assert model.weight.dtype == torch.float32


def test_a_row_holds_the_mean_of_each_term_over_its_epoch() -> None:
    values = iter(range(1, 11))
    model, memory = nn.Linear(6, 2), Memory()

    def loss(batch: Batch, given: Any) -> Terms:
        return {"count": model(batch.images).sum() * 0 + next(values)}

    stage = stage_of(model, [Update(model.parameters(), loss)], evaluate=scored([0.5, 0.25]))
    fit(stage, recipe(), runtime(), memory)
    assert [row["loss/count"] for row in memory.rows] == pytest.approx([3, 8])
    assert [row["val/top1"] for row in memory.rows] == [0.5, 0.25]
    assert [row["epoch"] for row in memory.rows] == [1, 2]


def test_every_epoch_is_in_train_mode_whatever_scoring_left() -> None:
    model, modes = net(), []

    def loss(batch: Batch, given: Any) -> Terms:
        modes.append(model.training)
        return entropy(model)(batch, given)

    def evaluate() -> Scores:
        model.eval()
        return {"top1": 0.0}

    model.eval()
    fit(stage_of(model, [Update(model.parameters(), loss)], evaluate=evaluate), recipe(), runtime(), Memory())
    assert modes == [True] * 10


def poisoned(model: nn.Module, at: int, value: float) -> Callable[[Batch, Any], Terms]:
    """A loss one of whose terms is ``value`` in step number ``at``."""
    steps = 0

    def loss(batch: Batch, given: Any) -> Terms:
        nonlocal steps
        steps += 1
        factor = value if steps == at else 0.0
        return {**entropy(model)(batch, given), "soft": model(batch.images).mean() * 0 + factor}

    return loss


@pytest.mark.parametrize("save_seconds", [0.0, 1e9], ids=["saved after every step", "never saved"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_not_finite_is_named_and_never_saved(value: float, save_seconds: float) -> None:
    model, memory = net(), Memory()
    stage = stage_of(model, [Update(model.parameters(), poisoned(model, 8, value))])
    with pytest.raises(TrainingError) as caught:
        fit(stage, recipe(), runtime(save_seconds), memory)
    line = "stage distill, epoch 2: loss soft is not finite (lr=0.1); try a smaller learning rate"
    assert str(caught.value) == line
    assert caught.value.exit_code == 1
    assert len(memory.saves) == (7 if save_seconds == 0 else 0)
    assert len(memory.rows) == 1
    for state in memory.saves:
        assert all(tensor.isfinite().all() for tensor in state["modules"].values())


def test_a_weight_that_is_not_finite_is_named_and_never_saved() -> None:
    model, memory, steps = net(), Memory(), []

    def spoil() -> None:
        steps.append(None)
        if len(steps) == 3:
            model[0].weight[0, 0] = math.inf

    update = Update(model.parameters(), lambda batch, given: {"ce": model[3].weight.sum()}, after_step=spoil)
    with pytest.raises(TrainingError) as caught:
        fit(stage_of(model, [update]), recipe(), runtime(0.0), memory)
    line = "stage distill, epoch 1: a weight is not finite (lr=0.1); try a smaller learning rate"
    assert str(caught.value) == line
    assert len(memory.saves) == 2
    assert memory.rows == []


@pytest.mark.parametrize(
    ("select", "values", "kept"),
    [
        ("top1", [0.1, 0.5, 0.3], 2),
        ("-top1", [0.4, 0.2, 0.3], 2),
        ("top1", [0.5, 0.5, 0.5], 1),
        ("-top1", [0.5, 0.2, 0.2], 2),
        ("top1", [0.1, 0.2, 0.3], 3),
        (None, [0.9, 0.2, 0.3], 3),
    ],
)
def test_the_best_epoch_is_restored_and_ties_go_to_the_earlier(
    select: str | None, values: list[float], kept: int
) -> None:
    model, after = net(), []
    left = iter(values)

    def evaluate() -> Scores:
        after.append(copied(model))
        return {"top1": next(left)}

    stage = stage_of(model, epochs=3, evaluate=evaluate, select=select)
    scores = fit(stage, recipe(), runtime(), Memory())
    assert same(copied(model), after[kept - 1])
    assert (scores["top1"], scores["epoch"]) == (values[kept - 1], kept)
    assert scores["seconds"] > 0


def test_a_stage_ends_early_where_it_has_what_it_wants() -> None:
    memory = Memory()
    stage = stage_of(net(), epochs=5, evaluate=scored([0.1, 0.6, 0.9]), until=lambda scores: scores["top1"] > 0.5)
    assert fit(stage, recipe(), runtime(), memory)["epoch"] == 2
    assert len(memory.rows) == 2


def test_a_finished_stage_that_is_loaded_is_not_trained_again() -> None:
    model, memory = net(), Memory()
    fit(stage_of(model), recipe(), runtime(), memory)
    again = net()
    fit(stage_of(again), recipe(), runtime(), Memory(memory.state))
    assert same(copied(again), copied(model))


def noisy(model: nn.Module) -> Callable[[Batch, Any], Terms]:
    """A loss that draws random numbers."""
    return lambda batch, given: {
        "ce": F.cross_entropy(model(batch.images + torch.randn(8, 6)), batch.targets),
    }


def long_stage(model: nn.Module, epochs: int = 3) -> Stage:
    def evaluate() -> Scores:
        with torch.no_grad():
            return {"size": float(model[0].weight.square().sum())}

    update = Update(model.parameters(), noisy(model))
    return stage_of(model, [update], epochs=epochs, evaluate=evaluate, select="-size")


def rows(*memories: Memory) -> list[dict[str, Any]]:
    return [{**row, "seconds": 0} for memory in memories for row in memory.rows]


@pytest.mark.parametrize("optimizer", [MOMENTUM, partial(Adam, lr=0.01, amsgrad=True)])
@pytest.mark.parametrize("at", range(1, 16, 2))
def test_a_stage_that_is_interrupted_goes_on_with_the_same_bits(at: int, optimizer: Callable[..., Optimizer]) -> None:
    half = recipe(optimizer, lambda progress: 1 - 0.5 * progress)
    whole, unbroken = net(), Memory()
    torch.manual_seed(5)
    scores = fit(long_stage(whole), half, runtime(), unbroken)

    first, broken = net(), Memory()
    stopping = runtime()
    broken.stop = (stopping, at)
    torch.manual_seed(5)
    with pytest.raises(Interrupted) as caught:
        fit(long_stage(first), half, stopping, broken)
    assert caught.value.exit_code == 143
    second, rest = net(), Memory(broken.state)
    torch.manual_seed(99)
    again = fit(long_stage(second), half, runtime(), rest)
    assert same(copied(second), copied(whole))
    assert rows(broken, rest) == rows(unbroken)
    assert {**again, "seconds": 0} == {**scores, "seconds": 0}


def test_a_finished_stage_goes_on_when_given_more_epochs() -> None:
    whole, short, more = net(), net(), net()
    torch.manual_seed(5)
    fit(long_stage(whole, 4), recipe(), runtime(), Memory())
    memory = Memory()
    torch.manual_seed(5)
    fit(long_stage(short, 2), recipe(), runtime(), memory)
    fit(long_stage(more, 4), recipe(), runtime(), Memory(memory.state))
    assert same(copied(more), copied(whole))


class Syncs(TorchDispatchMode):
    """Counts how often a number is fetched from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_device_reads_do_not_grow_with_the_length_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[int] = []
    tolist, to_numpy, to_cpu = Tensor.tolist, Tensor.numpy, Tensor.cpu
    monkeypatch.setattr(Tensor, "tolist", lambda self: lists.append(1) or tolist(self))
    monkeypatch.setattr(Tensor, "numpy", lambda self, **more: lists.append(1) or to_numpy(self, **more))
    monkeypatch.setattr(Tensor, "cpu", lambda self: lists.append(1) or to_cpu(self))

    def read(steps: int) -> int:
        lists.clear()
        stage = stage_of(net(), stream=stream(steps), epochs=1)
        with Syncs() as syncs:
            fit(stage, recipe(), runtime(), Memory())
        return syncs.count + len(lists)

    assert read(3) == read(30) <= 6
