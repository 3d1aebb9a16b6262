"""Self-distillation: what each classifier learns from, and what is kept of the net."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny import Memory, config, copied, experiment
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.self_distill import SelfDistill
from kdrun.models import loading
from kdrun.models.heads import Head
from kdrun.report.cost import parameters
from kdrun.store import weights
from kdrun.train.stage import Outputs, Step

NET = (
    "student=byot_resnet18",
    "student.width=4",
    "teacher=none",
    "dataset.train_count=24",
    "dataset.test_count=8",
    "batch_size=8",
)


def tensors(n: int = 5, classes: int = 4, features: int = 6) -> tuple[Outputs, list[tuple[Tensor, Tensor]], Tensor]:
    generator = torch.Generator().manual_seed(0)

    def random(width: int) -> Tensor:
        return torch.randn(n, width, generator=generator).requires_grad_()

    deepest = Outputs(random(classes), [random(3), random(features)])
    return deepest, [(random(classes), random(features)) for _ in range(3)], torch.tensor([0, 3, 1, 2, 1])


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(labels)), labels]).mean())


def by_hand(deepest: Outputs, shallow: list[tuple[Tensor, Tensor]], labels: Tensor, weight: dict[str, float]) -> float:
    """The formula of the report, corrected: KL is KL, T^2, nothing but CE for the deepest."""
    y, zc = labels.numpy(), deepest.logits.detach().numpy()
    fc, t = deepest.features[-1].detach().numpy(), weight["temperature"]
    total = weight["deepest"] * cross_entropy(zc, y)
    for logits, feature in shallow:
        z, f = logits.detach().numpy(), feature.detach().numpy()
        p, q = softmax(zc / t), softmax(z / t)
        kl = float((p * np.log(p / q)).sum(1).mean())
        squares = (f - fc) ** 2
        distance = squares.mean() if weight["mean"] else squares.sum()
        total += weight["ce"] * cross_entropy(z, y) + weight["kd"] * t**2 * kl + weight["feature"] * float(distance)
    return total


@pytest.mark.parametrize(
    ("method", "weight"),
    [
        (SelfDistill(), {"deepest": 1, "ce": 0.8, "kd": 0.2, "temperature": 3, "feature": 0.5, "mean": True}),
        (
            SelfDistill(0.9, 0.9, 0.1, 5.0, 1e-2, "sum"),
            {"deepest": 0.9, "ce": 0.9, "kd": 0.1, "temperature": 5, "feature": 1e-2, "mean": False},
        ),
    ],
    ids=["report", "paper's code"],
)
def test_the_loss_is_the_corrected_formula(method: SelfDistill, weight: dict[str, float]) -> None:
    deepest, shallow, labels = tensors()
    total = sum(term.item() for term in method.terms(deepest, shallow, labels).values())
    assert total == pytest.approx(by_hand(deepest, shallow, labels, weight), rel=1e-5)


@pytest.mark.parametrize("detached", [True, False])
def test_detach_deepest_decides_if_teaching_trains_the_deepest(detached: bool) -> None:
    deepest, shallow, labels = tensors()
    terms = SelfDistill(detach_deepest=detached).terms(deepest, shallow, labels)
    (terms["kd"] + terms["feature"] + terms["ce"]).backward()
    assert (deepest.logits.grad is None, deepest.features[-1].grad is None) == (detached, detached)
    assert all(logits.grad is not None and feature.grad is not None for logits, feature in shallow)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, SelfDistill]:
    overrides, out = ("method=self_distill", *NET), tmp_path_factory.mktemp("byot")
    exp = experiment(out, *overrides)
    method: Any = exp.method(config(out, *overrides)["method"])
    exp.follow(method, Memory().journal)
    return exp, method


def test_shallow_losses_train_the_blocks_but_not_the_deepest(
    trained: tuple[Experiment, SelfDistill],
) -> None:
    exp, method = trained
    stage, net = next(method.stages(exp)), cast(Any, exp.student.eval().model)
    terms: Any = stage.updates[0].loss(Step(next(stage.stream.epoch(1)), stage))
    first = [next(block.parameters()) for block in (net.conv1, net.layer1, net.layer2, net.layer3)]
    assert all(grad.any() for grad in torch.autograd.grad(terms["ce"], first, retain_graph=True))
    deepest = [*net.layer4.parameters(), *net.fc.parameters()]
    assert set(torch.autograd.grad(terms["kd"] + terms["feature"], deepest, allow_unused=True)) == {None}


def test_every_epoch_scores_all_classifiers_and_the_student(
    trained: tuple[Experiment, SelfDistill],
) -> None:
    exp, method = trained
    scores, own = method.evaluate(exp), exp.scores(exp.student)
    assert list(scores)[:2] == ["top1", "loss"]
    assert {name: scores[name] for name in own} == pytest.approx(own)
    assert {name.partition("/")[0] for name in list(scores)[2:]} == {
        *(f"classifier{place}" for place in (1, 2, 3)),
        "ensemble",
    }


def test_the_metrics_of_the_last_classifier_are_the_students(
    trained: tuple[Experiment, SelfDistill],
) -> None:
    exp, method = trained
    metrics = method.metrics(exp)
    assert [name for name in metrics if name.endswith("/top1")] == [
        *(f"classifier{place}/top1" for place in (1, 2, 3, 4)),
        "ensemble/top1",
    ]
    own = exp.scores(exp.student, "test")
    assert (metrics["classifier4/top1"], metrics["classifier4/loss"]) == pytest.approx((own["top1"], own["loss"]))
    batch = next(exp.batches("test"))
    with torch.no_grad():
        deepest = exp.student.eval()(batch.images)
        heads: Any = exp.student.model.heads
        shallow = [head(feature)[0].numpy() for head, feature in zip(heads, deepest.features, strict=False)]
    y = batch.targets.numpy()
    assert metrics["classifier2/loss"] == pytest.approx(cross_entropy(shallow[1], y), rel=1e-4)
    mean = np.mean([softmax(z) for z in (*shallow, deepest.logits.numpy())], axis=0)
    assert metrics["ensemble/loss"] == pytest.approx(-np.log(mean[np.arange(len(y)), y]).mean(), rel=1e-4)


def test_the_net_kept_without_heads_gives_the_same_logits(
    trained: tuple[Experiment, SelfDistill], tmp_path: Path
) -> None:
    exp, _ = trained
    path = tmp_path / "student.safetensors"
    weights.write(path, exp.student.model)
    state = loading.read(path)
    assert state
    assert not any(name.startswith("heads.") for name in state)
    again = exp.initialised(exp.student_node, 7)
    loading.fill(again.model, state, path, "student")
    images = next(exp.batches("test")).images
    with torch.no_grad():
        assert torch.equal(again.eval()(images).logits, exp.student.eval()(images).logits)
    heads: Any = exp.student.model.heads
    whole = sum(weight.numel() for weight in exp.student.parameters())
    assert parameters(exp.student) == whole - sum(weight.numel() for weight in heads.parameters())


def test_all_else_must_be_in_the_file() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.heads = nn.Linear(2, 2), nn.ModuleList([Head(nn.Identity(), 2, 3)])

    net = Net()
    state = loading.lasting(net, copied(net))
    assert sorted(state) == ["body.bias", "body.weight"]
    loading.fill(net, state, Path("a.pt"), "student")
    with pytest.raises(Exception, match="1 missing"):
        loading.fill(net, {"body.bias": state["body.bias"]}, Path("a.pt"), "student")


def test_a_net_without_classifiers_on_the_way_is_refused(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=self_distill", "teacher=none", "student=resnet8")
    with pytest.raises(ConfigError, match=r"^student: resnet8 has no classifiers on the way; take selfdistill4"):
        next(SelfDistill().stages(exp))


def test_one_tap_more_than_heads_is_needed(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=self_distill", *NET, "student.taps=[layer1,flatten]")
    with pytest.raises(ConfigError, match=r"^student.taps: 2 for 3 heads; needs one more than those$"):
        next(SelfDistill().stages(exp))


def test_the_presets_are_the_reports_and_the_papers(compose: Any) -> None:
    report, paper = (compose(f"experiment={name}") for name in ("selfdistill_cifar10", "byot_resnet18_cifar100"))
    assert (report["method"]["kd_weight"], report["method"]["feature_weight"], report["optimizer"]["lr"]) == (
        0.2,
        0.5,
        7e-4,
    )
    assert (report["batch_size"], report["epochs"]) == (100, 50)
    assert (paper["method"]["kd_weight"], paper["method"]["feature_weight"], paper["method"]["feature_reduction"]) == (
        0.1,
        1e-6,
        "sum",
    )
    assert [round(place * paper["epochs"]) for place in paper["schedule"]["milestones"]] == [75, 130, 180]
