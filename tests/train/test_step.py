"""What a step runs, and under which names a stage logs its terms."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny import Batches, Memory, copied, same
from torch import Tensor, nn
from torch.optim import SGD

from kdrun.train.loop import Recipe, fit
from kdrun.train.runtime import Runtime
from kdrun.train.stage import Batch, Outputs, Stage, Step, Terms, Update
from kdrun.train.taps import Tapped

MOMENTUM = partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)
BATCHES = 5


class Observed(Tapped):
    """A tapped model that notes each run: whether with gradients, and with which weights."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
        super().__init__(net, ["0"])
        self.grads: list[bool] = []
        self.weights: list[Tensor] = []

    def forward(self, images: Tensor) -> Outputs:
        self.grads.append(torch.is_grad_enabled())
        self.weights.append(self.model[0].weight.detach().clone())
        return super().forward(images)


def stream() -> Batches:
    images = torch.randn(BATCHES, 8, 6, generator=torch.Generator().manual_seed(0))
    return Batches([(batch, (batch.sum(1) > 0).long()) for batch in images])


def first_batch() -> Batch:
    return next(stream().epoch(1))


def train(players: dict[str, nn.Module], updates: list[Update], memory: Memory | None = None) -> None:
    recipe = Recipe(epochs=1, batch_size=8, optimizer=MOMENTUM, schedule=lambda progress: 1.0)
    stage = Stage("distill", players, updates, stream(), 1)
    fit(stage, recipe, Runtime(torch.device("cpu"), save_seconds=1e9), memory or Memory())


def entropy(model: nn.Module, name: str = "ce", weight: float = 1.0) -> Callable[[Step], Terms]:
    return lambda step: {name: weight * F.cross_entropy(step(model).logits, step.batch.targets)}


def test_two_updates_of_one_player_need_terms_of_two_names() -> None:
    model, memory = Observed(0), Memory()
    updates = [Update(model.parameters(), entropy(model, weight=weight)) for weight in (1.0, 9.0)]
    with pytest.raises(ValueError, match="two updates of stage distill have a term 'ce'; rename one of them"):
        train({"student": model}, updates, memory)
    assert memory.rows == []


def test_an_update_may_repeat_its_own_term() -> None:
    model, memory = Observed(0), Memory()
    train({"student": model}, [Update(model.parameters(), entropy(model), repeat=3)], memory)
    assert [name for name in memory.rows[0] if name.startswith("loss/")] == ["loss/ce"]


def test_a_term_of_another_player_carries_its_name() -> None:
    model, other, memory = Observed(0), Observed(1), Memory()
    updates = [Update(model.parameters(), entropy(model)), Update(other.parameters(), entropy(other), player="peer")]
    train({"student": model, "peer": other}, updates, memory)
    assert [name for name in memory.rows[0] if name.startswith("loss/")] == ["loss/ce", "loss/peer/ce"]


def test_a_term_with_a_slash_is_refused() -> None:
    model, memory = Observed(0), Memory()
    with pytest.raises(ValueError, match="term 'peer/ce' has a slash"):
        train({"student": model}, [Update(model.parameters(), entropy(model, "peer/ce"))], memory)
    assert memory.rows == []


@pytest.mark.parametrize("players", [{"net"}, {"net", "peer"}])
def test_an_update_of_an_unknown_player_is_refused(players: set[str]) -> None:
    model = Observed(0)
    with pytest.raises(ValueError, match=r"stage distill has no player 'student' \(has: .*net"):
        train(dict.fromkeys(sorted(players), model), [Update(model.parameters(), entropy(model))])


def test_a_model_runs_once_a_batch_however_many_updates_ask() -> None:
    model, one, other = Observed(0), Observed(1), Observed(2)

    def towards(net: Observed) -> Callable[[Step], Terms]:
        return lambda step: {"mse": F.mse_loss(step(net).logits, step(model).logits) + step(model).logits.mean()}

    players = {"one": one, "other": other, "third": model}
    updates = [Update(players[name].parameters(), towards(players[name]), player=name) for name in ("one", "other")]
    third = Update(model.parameters(), entropy(model), player="third")
    train(players, [*updates, third])
    assert len(model.weights) == len(one.weights) == len(other.weights) == BATCHES


def test_a_model_runs_again_after_an_update_moved_it() -> None:
    model = Observed(0)
    updates = [Update(model.parameters(), entropy(model, name)) for name in ("first", "second")]
    train({"student": model}, updates)
    assert len(model.weights) == 2 * BATCHES
    assert not any(torch.equal(*pair) for pair in zip(model.weights, model.weights[1:], strict=False))


def test_a_repeated_update_sees_the_model_as_it_moves() -> None:
    model = Observed(0)
    train({"student": model}, [Update(model.parameters(), entropy(model), repeat=3)])
    assert len(model.weights) == 3 * BATCHES
    assert not any(torch.equal(*pair) for pair in zip(model.weights, model.weights[1:], strict=False))


def test_a_model_runs_again_after_a_shared_optimizer_moved_it() -> None:
    model = Observed(0)
    first = Update(model.parameters(), entropy(model, "first"))
    second, third = (Update([], entropy(model, name), first) for name in ("second", "third"))
    train({"student": model}, [first, second, third])
    assert len(model.weights) == 3 * BATCHES
    assert not any(torch.equal(*pair) for pair in zip(model.weights, model.weights[1:], strict=False))


def test_a_model_runs_again_after_one_layer_of_it_moved() -> None:
    model, logits = Observed(0), []

    def second(step: Step) -> Terms:
        logits.append(step(model).logits.detach())
        return entropy(model, "second")(step)

    def first(step: Step) -> Terms:
        logits.append(step(model).logits.detach())
        return entropy(model, "first")(step)

    train({"student": model}, [Update(model.model[3].parameters(), first), Update(model.parameters(), second)])
    assert len(model.weights) == 2 * BATCHES
    assert not any(torch.equal(*pair) for pair in zip(logits[::2], logits[1::2], strict=True))


def test_an_update_without_terms_moves_no_model() -> None:
    model = Observed(0)
    updates = [Update(model.parameters(), lambda step: step(model) and {}), Update(model.parameters(), entropy(model))]
    train({"student": model}, updates)
    assert len(model.weights) == BATCHES


def test_a_part_of_a_model_runs_again_after_it_moved() -> None:
    model, parts = Observed(0), []

    def loss(name: str, step: Step) -> Terms:
        parts.append(step.until(model, 0))
        assert step.until(model, 0) is parts[-1]
        return {name: parts[-1].square().mean()}

    updates = [Update(model.parameters(), partial(loss, name)) for name in ("first", "second")]
    train({"student": model}, updates)
    assert model.image_count == 2 * BATCHES * 8
    assert not any(torch.equal(*pair) for pair in zip(parts[::2], parts[1::2], strict=True))


def test_latest_gives_the_outputs_from_before_the_move() -> None:
    model, peer, before, after = Observed(0), Observed(1), [], []

    def first(step: Step) -> Terms:
        before.append(step(model))
        return entropy(model)(step)

    def second(step: Step) -> Terms:
        after.append(step.latest(model))
        return entropy(peer)(step)

    players = {"student": model, "peer": peer}
    train(players, [Update(model.parameters(), first), Update(peer.parameters(), second, player="peer")])
    assert len(model.weights) == BATCHES
    for old, new in zip(before, after, strict=True):
        assert old.logits.requires_grad
        assert old.features[0].requires_grad
        assert torch.equal(old.logits, new.logits)
        assert torch.equal(old.features[0], new.features[0])
        assert not new.logits.requires_grad
        assert not new.features[0].requires_grad


def test_latest_gives_the_last_run_of_a_repeated_update() -> None:
    model, peer, runs, latest = Observed(0), Observed(1), [], []

    def first(step: Step) -> Terms:
        runs.append(step(model).logits.detach())
        return entropy(model)(step)

    def second(step: Step) -> Terms:
        latest.append(step.latest(model).logits)
        return entropy(peer)(step)

    updates = [Update(model.parameters(), first, repeat=3), Update(peer.parameters(), second, player="peer")]
    train({"student": model, "peer": peer}, updates)
    assert len(model.weights) == len(runs) == 3 * BATCHES
    for number, logits in enumerate(latest, start=1):
        assert torch.equal(logits, runs[3 * number - 1])
        assert not torch.equal(logits, runs[3 * number - 3])


def test_latest_runs_a_model_that_has_not_run_yet_once() -> None:
    model, outputs = Observed(0), []

    def loss(step: Step) -> Terms:
        outputs.append(step.latest(model).logits)
        return entropy(model)(step)

    train({"student": model}, [Update(model.parameters(), loss)])
    assert len(model.weights) == BATCHES
    assert not any(logits.requires_grad for logits in outputs)


def test_a_frozen_model_runs_once_a_batch_without_gradients() -> None:
    model, frozen = Observed(0), Observed(1)
    before = {name: tensor for name, tensor in copied(frozen).items() if name.endswith(("weight", "bias"))}

    def towards(name: str) -> Callable[[Step], Terms]:
        return lambda step: {name: F.mse_loss(step(model).logits, step(frozen).logits)}

    train({"student": model}, [Update(model.parameters(), towards(name)) for name in ("first", "second")])
    assert frozen.grads == [False] * BATCHES
    assert model.grads == [True] * 2 * BATCHES
    assert all(torch.equal(copied(frozen)[name], tensor) for name, tensor in before.items())


def test_a_player_that_no_update_moves_gets_no_gradient_graph() -> None:
    model, player = Observed(0), Observed(1)
    assert all(parameter.requires_grad for parameter in player.parameters())

    def loss(step: Step) -> Terms:
        assert not step(player).logits.requires_grad
        assert not step.until(player, 0).requires_grad
        return {"mse": F.mse_loss(step(model).logits, step(player).logits)}

    train({"student": model, "other": player}, [Update(model.parameters(), loss)])
    assert player.grads == [False] * BATCHES


def test_outputs_first_wanted_without_gradients_can_have_them() -> None:
    model, peer = Observed(0), Observed(1)

    def first(step: Step) -> Terms:
        with torch.no_grad():
            target = step(model).logits
        return {"mse": F.mse_loss(step(peer).logits, target.clone())}

    players = {"student": model, "peer": peer}
    train(players, [Update(peer.parameters(), first, player="peer"), Update(model.parameters(), entropy(model))])
    by_hand = Observed(0)
    train({"student": by_hand}, [Update(by_hand.parameters(), entropy(by_hand))])
    assert len(model.weights) == BATCHES
    assert same(copied(model), copied(by_hand))


def kl(own: Tensor, other: Tensor) -> Tensor:
    return F.kl_div(own.log_softmax(1), other.softmax(1), reduction="batchmean")


def mutual(net: Observed, peer: Callable[[Step], Tensor]) -> Callable[[Step], Terms]:
    def loss(step: Step) -> Terms:
        logits = step(net).logits
        return {"ce": F.cross_entropy(logits, step.batch.targets), "kl": kl(logits, peer(step))}

    return loss


def mutual_by_hand(one: Observed, other: Observed, in_turn: bool) -> None:
    """Deep mutual learning: each net goes towards the other's logits, the second towards the moved first in turn."""
    optimizers = MOMENTUM(one.parameters()), MOMENTUM(other.parameters())
    for images, targets in stream().pairs:
        before, theirs = one(images).logits, other(images).logits
        optimizers[0].zero_grad()
        (F.cross_entropy(before, targets) + kl(before, theirs.detach())).backward()
        optimizers[0].step()
        target = one(images).logits if in_turn else before
        optimizers[1].zero_grad()
        (F.cross_entropy(theirs, targets) + kl(theirs, target.detach())).backward()
        optimizers[1].step()


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("in_turn", [True, False])
def test_mutual_learning_equals_the_computation_by_hand(in_turn: bool, detached: bool) -> None:
    one, other = Observed(0), Observed(1)

    def logits(net: Observed) -> Callable[[Step], Tensor]:
        if not in_turn:
            return lambda step: step.latest(net).logits
        return lambda step: step(net).logits.detach() if detached else step(net).logits

    updates = [
        Update(one.parameters(), mutual(one, logits(other))),
        Update(other.parameters(), mutual(other, logits(one)), player="peer"),
    ]
    train({"student": one, "peer": other}, updates)
    hand = Observed(0), Observed(1)
    mutual_by_hand(*hand, in_turn)
    assert same(copied(one), copied(hand[0]))
    assert same(copied(other), copied(hand[1]))
    assert len(one.weights) == (2 if in_turn else 1) * BATCHES
    assert len(other.weights) == BATCHES


def test_outputs_do_not_outlive_their_batch() -> None:
    model: Any = Observed(0)
    stage = Stage("distill", {"student": model}, [Update(model.parameters(), entropy(model))], stream(), 1)
    one, other = Step(first_batch(), stage), Step(first_batch(), stage)
    assert one(model) is one(model)
    assert one(model) is not other(model)
