"""What a method deploys, where that is more than its student: it is scored, counted, tested and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from tiny import Memory, assembled, config, copied, experiment, same
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Method, Outputs, Stages, Terms, Update
from kdrun.run.run import run
from kdrun.store import files
from kdrun.train.taps import Tapped

SIDE, WIDTH, WIDE, CLASSES = 12, 16, 32, 10
WORDS = ("student=mlp_16", "teacher=mlp_32", "epochs=3", "baseline=false", "optimizer.lr=0.01")


class Reuser(nn.Module):
    """The student's features, projected to the teacher's, before the teacher's own classifier."""

    def __init__(self, student: Tapped, projector: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.student, self.projector, self.classifier = student, projector, classifier

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.projector(self.student(images).features[-1]))
        return logits


class SimKD(Method):
    """The student learns the teacher's last features; the teacher's classifier is reused. arXiv:2203.14001."""

    reads = frozenset({"features", "classifier"})
    select: str = "top1"
    """By which score an epoch is kept; the last one where it is "last"."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.projector = nn.Linear(student[-1][1], teacher[-1][1])

    def deployed(self, exp: Experiment) -> nn.Module:
        return Tapped(Reuser(exp.student, self.projector, exp.classifier(exp.teacher, "teacher")))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        return {"mse": F.mse_loss(self.projector(student.features[-1]), teacher.features[-1])}

    def stages(self, exp: Experiment) -> Stages:
        self.begin(exp)
        yield self.distill(exp, select=None if self.select == "last" else self.select)


class Aimless(Method):
    """Its last stage trains a part of its own and deploys none, or a player that it has not; or it has no stage."""

    kind: str = "none"
    """none, unknown or empty."""

    def stages(self, exp: Experiment) -> Stages:
        part = nn.Linear(2, 1)
        update = Update(part.parameters(), lambda step: {"sum": part.weight.sum()}, player="part")
        if self.kind == "none":
            yield self.distill(exp, name="first")
            yield exp.stage("second", [update], {"part": part})
        if self.kind == "unknown":
            yield exp.stage("second", [update], {"part": part}, deployed="student")

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        return {"mse": F.mse_loss(student.logits, teacher.logits)}


def node(method: type[Method], **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{method.__name__}", "name": method.__name__.lower(), **arguments}


def simkd(out: Path, *words: str, **arguments: Any) -> dict[str, Any]:
    return {**config(out, *WORDS, *words), "method": node(SimKD, **arguments), "trust": [__name__]}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one training of which the best, the worst and the last epoch are kept."""
    out = tmp_path_factory.mktemp("deployed")
    for kept, select in {"best": "top1", "worst": "-top1", "last": "last"}.items():
        run(simkd(out, select=select), out / kept, [])
    return out


def summary(out: Path, name: str) -> dict[str, Any]:
    row: dict[str, Any] = files.read_json(out / name / "summary.json")["models"]["student"]
    return row


def by_hand(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """The deployed model's logits, from the weights of its file, by matrices alone."""

    def linear(name: str, inputs: Tensor) -> Tensor:
        return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    first = next(name.removesuffix(".weight") for name, each in weights.items() if each.shape == (WIDTH, SIDE**2))
    return linear("classifier", linear("projector", linear(first, images.flatten(1)).relu()))


@pytest.mark.parametrize("name", ["best", "worst"])
def test_a_deployed_model_is_what_the_test_scores_are_of(name: str, out: Path) -> None:
    weights = safetensors.torch.load_file(out / name / "student.safetensors")
    exp, scores = experiment(out, *WORDS), {}
    for split, role in {"test": "test", "val": "val"}.items():
        pairs = [(by_hand(weights, batch.images), batch.targets) for batch in exp.batches(split)]
        logits, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        scores[role] = (logits.argmax(1) == targets).float().mean().item(), F.cross_entropy(logits, targets).item()
    row = summary(out, name)
    for role, (top1, loss) in scores.items():
        assert row[role]["top1"] == pytest.approx(top1)
        assert row[role]["loss"] == pytest.approx(loss, rel=1e-4)


def test_a_deployed_model_keeps_the_teachers_own_classifier(out: Path) -> None:
    teacher = experiment(out, *WORDS).teacher
    rows = dict(teacher.model.named_parameters())
    weights = safetensors.torch.load_file(out / "best" / "student.safetensors")
    assert any(torch.equal(weights["classifier.weight"], each) for each in rows.values())


def test_the_last_epochs_file_is_of_the_deployed_model_too(out: Path) -> None:
    last = safetensors.torch.load_file(out / "last" / "student.safetensors")
    worst = safetensors.torch.load_file(out / "worst" / "student.safetensors")
    assert summary(out, "worst")["epoch"] < summary(out, "last")["epoch"] == 3
    assert not same(last, worst)
    for name in ("best", "worst", "last"):
        assert same(safetensors.torch.load_file(out / name / "student-last.safetensors"), last)


def test_costs_of_the_student_are_those_of_what_is_deployed(out: Path) -> None:
    matrices = [SIDE**2 * WIDTH, WIDTH * CLASSES, WIDTH * WIDE, WIDE * CLASSES]  # the student's own classifier stays
    row = summary(out, "best")
    assert row["flops"] == 2 * sum(matrices)
    assert row["parameters"] == sum(matrices) + WIDTH + CLASSES + WIDE + CLASSES


def test_more_than_a_student_is_refused_in_a_chain(tmp_path: Path) -> None:
    whole = config(tmp_path, *WORDS, "method=takd", "method.assistants=[mlp_32]")
    whole |= {"method": {**whole["method"], "base": node(SimKD)}, "trust": [__name__]}
    with pytest.raises(ConfigError) as caught:
        assembled(whole).summaries()
    assert str(caught.value) == "method: simkd deploys more than its student, so it cannot train a model of a chain"
    with pytest.raises(ConfigError, match="deploys more than its student"):
        run(whole, tmp_path / "run", [])
    assert list(tmp_path.iterdir()) == []


def test_more_than_a_student_may_end_a_chain(tmp_path: Path) -> None:
    whole = config(tmp_path, *WORDS, "method=takd", "method.assistants=[]")
    whole |= {"method": {**whole["method"], "base": node(SimKD)}, "trust": [__name__]}
    assert [stage.stage for stage in assembled(whole).summaries()] == ["distill", "distill"]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("none", "its last stage, second, deploys none of its players; the last stage must deploy the model to test"),
        ("unknown", "cannot train mlp_16: stage second deploys 'student', which is none of its players (part)"),
        ("empty", "it has no stage; the last stage must deploy the model to test"),
    ],
)
def test_a_method_that_deploys_no_model_is_refused(kind: str, line: str, tmp_path: Path) -> None:
    whole = {**config(tmp_path, *WORDS), "method": node(Aimless, kind=kind), "trust": [__name__]}
    with pytest.raises(ConfigError) as caught:
        run(whole, tmp_path / "run", [])
    assert str(caught.value) == f"method: {line}"
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_within_what_is_deployed_stays_as_it_is(tmp_path: Path) -> None:
    class Both(Method):
        def deployed(self, exp: Experiment) -> nn.Module:
            class Sum(nn.Module):
                def __init__(self) -> None:
                    super().__init__()
                    self.student, self.teacher = exp.student, exp.teacher.model

                def forward(self, images: Tensor) -> Tensor:
                    logits: Tensor = self.student(images).logits + self.teacher(images).logits
                    return logits

            return Tapped(Sum())

        def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
            return {"ce": nn.functional.cross_entropy(student.logits + teacher.logits, batch.targets)}

    exp = experiment(tmp_path, "teacher=resnet8", "student=resnet8", "batch_size=8", "fast_dev_run=true")
    before = copied(exp.teacher.model)
    exp.follow(Both(), Memory().journal)
    assert same(copied(exp.teacher.model), before)
