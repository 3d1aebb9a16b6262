from __future__ import annotations

import math
import time
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
from kdrun.train.loop import Recipe, fit
from kdrun.train.runtime import Runtime, seeded
from kdrun.train.stage import Scores, Stage, Step, Terms, Update

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


def entropy(model: nn.Module) -> Callable[[Step], Terms]:
    return lambda step: {"ce": F.cross_entropy(model(step.batch.images), step.batch.targets)}


def stage_of(model: nn.Module, updates: list[Update] | None = None, **changes: Any) -> Stage:
    updates = updates or [Update(model.parameters(), entropy(model))]
    usual = {"stream": stream(), "epochs": 2}
    return Stage("distill", {"student": model}, updates, **{**usual, **changes})


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

    def loss(step: Step) -> Terms:
        logits = model(step.batch.images)
        return {"ce": 0.5 * F.cross_entropy(logits, step.batch.targets), "size": 0.1 * logits.square().mean()}

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
    maker, discriminator = players()
    before = copied(discriminator)

    def loss(step: Step) -> Terms:
        return {"fool": discriminator(maker(step.batch.images)).mean()}

    update = Update(maker.parameters(), loss, player="maker")
    both = {"maker": maker, "discriminator": discriminator}
    fit(Stage("game", both, [update], stream(), 1), recipe(), runtime(), Memory())
    assert same(copied(discriminator), before)
    assert [parameter.grad for parameter in discriminator.parameters()] == [None, None]
    assert all(parameter.grad is not None for parameter in maker.parameters())


def test_two_players_move_in_turn_as_by_hand() -> None:
    maker, discriminator = players()
    by_hand = deepcopy((maker, discriminator))

    def fool(step: Step) -> Terms:
        return {"fool": -discriminator(maker(step.batch.images)).mean()}

    def tell(step: Step) -> Terms:
        return {"tell": discriminator(maker(step.batch.images)).square().mean()}

    updates = [
        Update(maker.parameters(), fool, player="maker"),
        Update(discriminator.parameters(), tell, player="discriminator"),
    ]
    both = {"maker": maker, "discriminator": discriminator}
    fit(Stage("game", both, updates, stream(), 1), recipe(), runtime(), Memory())
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
    assert same(copied(discriminator), copied(by_hand[1]))


def test_a_loss_without_terms_makes_no_step() -> None:
    model, by_hand = net(), net()

    def loss(step: Step) -> Terms:
        return entropy(model)(step) if step.batch.epoch == 1 else {}

    memory = Memory()
    fit(stage_of(model, [Update(model.parameters(), loss)], epochs=3), recipe(), runtime(), memory)
    fit(stage_of(by_hand, epochs=1), recipe(), runtime(), Memory())
    assert same(copied(model), copied(by_hand))  # momentum alone would have moved it on
    assert "loss/ce" in memory.rows[0]
    assert "loss/ce" not in memory.rows[1]


def test_an_update_is_repeated_on_the_same_batch() -> None:
    model, by_hand, seen = net(), net(), []

    def loss(step: Step) -> Terms:
        seen.append(step.batch)
        return entropy(model)(step)

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
        optimizer = SGD([{"params": parameters[:2], "lr": 0.5}, {"params": parameters[2:]}], lr=0.1)
        groups, step = optimizer.param_groups, optimizer.step
        optimizer.step = lambda: rates.append([group["lr"] for group in groups]) or step()  # type: ignore[assignment]
        return optimizer

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
        Update(model.parameters(), entropy(model), player="one"),
        Update(other.parameters(), entropy(other), partial(SGD, lr=0.0), player="two"),
    ]
    memory = Memory()
    fit(Stage("both", {"one": model, "two": other}, updates, stream(), 1), recipe(), runtime(), memory)
    assert same(copied(other), before)
    assert (memory.rows[0]["lr/0"], memory.rows[0]["lr/1"]) == (0.1, 0.0)


def test_an_update_may_reuse_the_optimizer_of_an_earlier_one() -> None:
    model, by_hand = net(), net()
    first = Update(model.parameters(), entropy(model))

    def again(step: Step) -> Terms:
        return {"half": 0.5 * F.cross_entropy(model(step.batch.images[:4]), step.batch.targets[:4])}

    fit(stage_of(model, [first, Update([], again, first)], epochs=1), recipe(), runtime(), Memory())
    other = MOMENTUM(by_hand.parameters())
    for images, targets in stream().pairs:
        for count, weight in ((8, 1.0), (4, 0.5)):
            other.zero_grad()
            (weight * F.cross_entropy(by_hand(images[:count]), targets[:count])).backward()
            other.step()
    assert same(copied(model), copied(by_hand))


class Frozen(nn.Linear):
    """A model that an update does not move; it notes each run: whether with gradients, and in which precision."""

    def __init__(self) -> None:
        super().__init__(6, 2)
        self.grads: list[bool] = []
        self.dtypes: list[torch.dtype] = []
        self.image_count = 0

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        self.grads.append(torch.is_grad_enabled())
        self.dtypes.append(logits.dtype)
        self.image_count += len(images)
        return logits


def towards(model: nn.Module, frozen: nn.Module, name: str = "mse") -> Callable[[Step], Terms]:
    """A loss that reads a frozen model's outputs of the step."""
    return lambda step: {name: F.mse_loss(model(step.batch.images), step(frozen) + 1)}


def test_frozen_models_run_once_a_batch_without_gradients() -> None:
    model, frozen, answers = net(), Frozen(), []

    def loss(step: Step) -> Terms:
        answers.append(step(frozen))
        assert not answers[-1].requires_grad
        return towards(model, frozen)(step)

    def more(step: Step) -> Terms:
        answers.append(step(frozen))
        return towards(model, frozen, "more")(step)

    updates = [Update(model.parameters(), loss, repeat=2), Update(model.parameters(), more)]
    fit(stage_of(model, updates, epochs=1), recipe(), runtime(), Memory())
    assert frozen.grads == [False] * 5
    assert len(answers) == 15
    assert all(len(set(map(id, answers[place : place + 3]))) == 1 for place in range(0, 15, 3))


@pytest.mark.parametrize("at", [None, 3, 7])
def test_images_for_frozen_models_are_counted_over_interruptions(at: int | None) -> None:
    frozen = Frozen()
    frozen.image_count = 100  # before this stage

    def stage() -> Stage:
        model = net()
        updates = [Update(model.parameters(), towards(model, frozen))]
        return stage_of(model, updates, teacher_images=lambda: frozen.image_count)

    stopping, memory = runtime(), Memory()
    if at:
        memory.stop = (stopping, at)
        with pytest.raises(Interrupted):
            fit(stage(), recipe(), stopping, memory)
        assert memory.state is not None
        assert memory.state["teacher_images"] == at * 8
        frozen.image_count += 1000  # by someone else
    assert fit(stage(), recipe(), runtime(), Memory(memory.state))["teacher_images"] == 2 * 5 * 8


def burn(seconds: float) -> None:
    """Keeps the processor busy, where a sleep would not."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


@pytest.mark.parametrize("at", [None, 4, 7])
def test_seconds_are_counted_over_interruptions(at: int | None) -> None:
    def stage() -> Stage:
        model = net()

        def loss(step: Step) -> Terms:
            burn(0.01)
            time.sleep(0.01)
            return entropy(model)(step)

        return stage_of(model, [Update(model.parameters(), loss)])

    stopping, memory = runtime(), Memory()
    if at:
        memory.stop = (stopping, at)
        with pytest.raises(Interrupted):
            fit(stage(), recipe(), stopping, memory)
        assert memory.state is not None
        assert memory.state["train_cpu_seconds"] >= at * 0.01
        assert memory.state["train_seconds"] >= at * 0.02
        burn(1)  # is no part of the training
    scores = fit(stage(), recipe(), runtime(), Memory(memory.state))
    assert 10 * 0.01 <= scores["train_cpu_seconds"] < 1
    assert scores["train_seconds"] >= 10 * 0.02
    assert scores["train_seconds"] - scores["train_cpu_seconds"] >= 0.05  # it slept for 0.1


def test_frozen_models_answer_in_the_runs_precision() -> None:
    model, frozen = net(), Frozen()
    stage = stage_of(model, [Update(model.parameters(), towards(model, frozen))])
    fit(stage, recipe(), Runtime(torch.device("cpu"), precision="bf16"), Memory())
    assert frozen.dtypes == [torch.bfloat16] * 10


def test_losses_are_computed_in_the_runs_precision() -> None:
    model, kinds = nn.Linear(6, 2), []

    def loss(step: Step) -> Terms:
        kinds.append(model(step.batch.images).dtype)
        return entropy(model)(step)

    stage = stage_of(model, [Update(model.parameters(), loss)], epochs=1)
    fit(stage, recipe(), Runtime(torch.device("cpu"), precision="bf16"), Memory())
    assert set(kinds) == {torch.bfloat16}
    assert model.weight.dtype == torch.float32


def test_a_row_holds_the_mean_of_each_term_over_its_epoch() -> None:
    values = iter(range(1, 11))
    model, memory = nn.Linear(6, 2), Memory()

    def loss(step: Step) -> Terms:
        return {"count": model(step.batch.images).sum() * 0 + next(values)}

    stage = stage_of(model, [Update(model.parameters(), loss)], evaluate=scored([0.5, 0.25]))
    fit(stage, recipe(), runtime(), memory)
    assert [row["loss/count"] for row in memory.rows] == pytest.approx([3, 8])
    assert [row["val/top1"] for row in memory.rows] == [0.5, 0.25]
    assert [row["epoch"] for row in memory.rows] == [1, 2]


def test_a_term_that_some_steps_lack_has_the_mean_of_the_others() -> None:
    model, memory, number = nn.Linear(6, 2), Memory(), 0

    def loss(step: Step) -> Terms:
        nonlocal number
        number += 1
        nil = model(step.batch.images).sum() * 0
        return {"each": nil + number} if number % 2 else {"each": nil + number, "even": nil + number}

    fit(stage_of(model, [Update(model.parameters(), loss)], epochs=1), recipe(), runtime(), memory)
    assert memory.rows[0]["loss/each"] == pytest.approx((1 + 2 + 3 + 4 + 5) / 5)
    assert memory.rows[0]["loss/even"] == pytest.approx((2 + 4) / 2)


def test_every_epoch_is_in_train_mode_whatever_scoring_left() -> None:
    model, modes = net(), []

    def loss(step: Step) -> Terms:
        modes.append(model.training)
        return entropy(model)(step)

    def evaluate() -> Scores:
        model.eval()
        return {"top1": 0.0}

    model.eval()
    fit(stage_of(model, [Update(model.parameters(), loss)], evaluate=evaluate), recipe(), runtime(), Memory())
    assert modes == [True] * 10


def poisoned(model: nn.Module, at: int, value: float) -> Callable[[Step], Terms]:
    """A loss one of whose terms is ``value`` in step number ``at``."""
    steps = 0

    def loss(step: Step) -> Terms:
        nonlocal steps
        steps += 1
        factor = value if steps == at else 0.0
        return {**entropy(model)(step), "soft": model(step.batch.images).mean() * 0 + factor}

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

    update = Update(model.parameters(), lambda step: {"ce": model[3].weight.sum()}, after_step=spoil)
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
    assert scores["train_seconds"] > 0


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


def noisy(model: nn.Module) -> Callable[[Step], Terms]:
    """A loss that draws random numbers."""
    return lambda step: {
        "ce": F.cross_entropy(model(step.batch.images + torch.randn(8, 6)), step.batch.targets),
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
    clocks = {"train_seconds": 0, "train_cpu_seconds": 0}
    assert {**again, **clocks} == {**scores, **clocks}


def test_a_finished_stage_goes_on_when_it_gets_more_epochs() -> None:
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


def test_draws_from_a_seed_leave_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with seeded(7):
        first = torch.rand(4)
    assert torch.equal(torch.rand(4), expected)
    with seeded(7):
        assert torch.equal(torch.rand(4), first)
