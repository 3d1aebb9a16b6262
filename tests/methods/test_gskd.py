from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Memory, assembled, config, copied, experiment, same
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.errors import ConfigError
from kdrun.methods.gskd import GSKD, with_less_ce
from kdrun.methods.kd import KD, soft_loss
from kdrun.store import files
from kdrun.train.stage import Step

CHAIN = ("teacher=mlp_100", "student=mlp_100", "method=gskd", "method.students=[mlp_16,mlp_32]")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that a teacher is trained once."""
    return tmp_path_factory.mktemp("store")


def distilled(out: Path, *overrides: str) -> tuple[Experiment, dict[str, Tensor], Memory, GSKD]:
    exp, memory = experiment(out, *CHAIN, *overrides), Memory()
    method: Any = exp.method(config(out, *CHAIN, *overrides)["method"])
    exp.follow(method, memory.journal)
    return exp, copied(exp.student), memory, method


def stored(out: Path) -> list[dict[str, Any]]:
    paths = sorted(out.glob("models/*/manifest.json"), key=lambda path: path.stat().st_mtime_ns)
    return [{**files.read_json(path), "name": path.parent.name.rpartition("-")[0]} for path in paths]


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.parametrize(("reduction", "parts"), [("batchmean", 1), ("mean", 10)])
def test_the_loss_is_that_of_the_paper(reduction: str, parts: int, tmp_path: Path) -> None:
    words = (
        "method.base.ce_weight=0.7",
        "method.base.kd_weight=0.3",
        "method.previous_weight=0.2",
        "method.temperature=5",
    )
    words += (f"method.reduction={reduction}", f"method.base.reduction={reduction}")
    exp = experiment(tmp_path, *CHAIN, *words)
    stage = next(exp.method(config(tmp_path, *CHAIN, *words)["method"]).stages(exp))
    manifest = stored(tmp_path)[-1]
    assert manifest["name"] == "mlp_32"
    batch = next(stage.stream.epoch(1))
    previous = exp.chain[-1]
    with torch.no_grad():
        nets = (exp.student, exp.teacher.model, previous.model)
        student, teacher, older = (net(batch.images).logits.double().numpy() for net in nets)
        terms = stage.updates[0].loss(Step(batch, stage))
    own = log_softmax(student)
    expected = (1 - 0.3 - 0.2) * -own[range(len(own)), batch.targets.tolist()].mean()
    for weight, model, t in ((0.3, teacher, 3), (0.2, older, 5)):
        log = log_softmax(model / t)
        expected += weight * t**2 * (np.exp(log) * (log - log_softmax(student / t))).sum() / len(own) / parts
    assert float(sum(terms.values())) == pytest.approx(expected, rel=1e-4)


def test_gradients_are_summed_from_the_previous_student_back(out: Path) -> None:
    exp = experiment(out, *CHAIN)
    stage = next(exp.method(config(out, *CHAIN)["method"]).stages(exp))
    batch, weights = next(stage.stream.epoch(1)), list(exp.student.parameters())
    terms = stage.updates[0].loss(Step(batch, stage))
    own = torch.autograd.grad(terms["ce"] + terms["kd"] + terms["previous"], weights)
    with torch.no_grad():
        teacher, older = exp.teacher(batch.images), exp.chain[-1](batch.images).logits
    student = exp.student(batch.images)  # what comes last goes backward first: the order decides the last bit
    losses = KD(0.9 - 0.05, 0.1, 3.0).loss(student, teacher, batch)
    previous = 0.05 * 3.0**2 * soft_loss(student.logits, older, 3.0)
    expected = torch.autograd.grad(losses["ce"] + losses["kd"] + previous, weights)
    assert all(torch.equal(*pair) for pair in zip(own, expected, strict=True))


def test_each_student_learns_from_the_teacher_and_the_one_before(tmp_path: Path) -> None:
    exp, _, _, _ = distilled(tmp_path)
    chain = {manifest["name"]: manifest for manifest in stored(tmp_path) if manifest["key"] != exp.teacher.key}
    assert list(chain) == ["mlp_16", "mlp_32"]
    assert {link["fields"]["teacher"] for link in chain.values()} == {exp.teacher.key}
    assert "students" not in chain["mlp_16"]["fields"]["method"]  # the smallest: by the base method
    assert len(chain["mlp_32"]["fields"]["method"]["students"]) == 1


def test_the_previous_students_learn_by_the_same_weights(tmp_path: Path) -> None:
    settings = {"previous_weight": 0.25, "temperature": 7.0, "reduction": "mean"}
    distilled(tmp_path, *(f"method.{key}={value}" for key, value in settings.items()))
    link = next(manifest for manifest in stored(tmp_path) if manifest["name"] == "mlp_32")["fields"]["method"]
    assert {key: link[key] for key in settings} == settings


def test_the_chain_is_trained_by_the_runs_recipe_seed_and_data(tmp_path: Path) -> None:
    distilled(tmp_path, "seed=5", "epochs=2", "teacher.seed=3", "dataset.train_size=40")
    for manifest in stored(tmp_path)[1:]:
        fields = manifest["fields"]
        assert (fields["seed"], fields["recipe"]["epochs"], fields["split"][2]) == (5, 2, 40)


def test_the_previous_student_and_the_teacher_stay_as_they_are(out: Path) -> None:
    exp = experiment(out, *CHAIN)
    stages = exp.method(config(out, *CHAIN)["method"]).stages(exp)
    stage = next(stages)
    frozen = [link.model for link in exp.chain]
    before = [copied(model) for model in frozen]
    terms = stage.updates[0].loss(Step(next(stage.stream.epoch(1)), stage))
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert all(same(copied(model), was) for model, was in zip(frozen, before, strict=True))
    assert all(parameter.grad is None for model in frozen for parameter in model.parameters())


@pytest.mark.parametrize("base", ["blkd", "fitnets", "gan"])
def test_previous_weight_0_is_the_base_method_bit_for_bit(base: str, out: Path) -> None:
    _, weights, memory, _ = distilled(out, f"method.base={base}", "method.previous_weight=0")
    plain, other = Memory(), experiment(out, *CHAIN[:2], f"method={base}")
    other.follow(other.method(config(out, *CHAIN[:2], f"method={base}")["method"]), plain.journal)
    assert same(weights, copied(other.student))
    timeless = [[{**row, "seconds": 0} for row in each.rows] for each in (memory, plain)]
    assert timeless[0] == timeless[1]


def test_no_students_before_it_make_it_the_base_method(out: Path) -> None:
    _, weights, _, _ = distilled(out, "method.students=[]")
    other = experiment(out, *CHAIN[:2], "method=blkd")
    other.follow(other.method(config(out, *CHAIN[:2], "method=blkd")["method"]), Memory().journal)
    assert same(weights, copied(other.student))


@pytest.mark.parametrize("base", ["takd", "wskd", "fitnets"])
def test_a_base_of_several_stages_uses_the_previous_student_too(base: str, out: Path) -> None:
    words = ["method.previous_weight=0.05", f"method.base={base}"]
    words += ["method.base.assistants=[mlp_32]"] if base == "takd" else []
    _, _, memory, _ = distilled(out, *words)
    assert "loss/previous" in memory.rows[-1]
    assert "loss/previous" not in memory.rows[0] or base != "fitnets"


def test_a_weight_comes_off_the_labels_of_the_innermost_base() -> None:
    inner = {"ce_weight": 0.9, "kd_weight": 0.1}
    assert with_less_ce(inner, 0.4) == {"ce_weight": 0.5, "kd_weight": 0.1}
    assert with_less_ce({"base": inner, "ce_weight": 0.3}, 0.4) == {
        "base": {**inner, "ce_weight": 0.5},
        "ce_weight": 0.3,
    }


def test_more_weight_than_the_labels_have_is_refused(out: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        distilled(out, "method.base=kd", "method.previous_weight=0.2")
    assert str(refused.value) == "method.previous_weight: 0.2 is taken from method.base.ce_weight, which is 0.1"
    with pytest.raises(ConfigError, match="which does not exist"):
        with_less_ce({"lr": 1.0}, 0.1)


def test_a_chain_that_shrinks_is_refused(out: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.students: mlp_100 has 15,\d+ parameters, the next student 2,\d+"):
        distilled(out, "student=mlp_16", "method.students=[mlp_100]")


def test_the_new_teacher_teaches_a_second_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[Trained] = []
    taught_by = Experiment.taught_by
    monkeypatch.setattr(Experiment, "taught_by", lambda self, one: taught.append(one) or taught_by(self, one))
    exp, _, _, method = distilled(tmp_path, "method.new_teacher=mlp_100", "method.students=[mlp_16]")
    manifests = stored(tmp_path)
    new = next(each for each in manifests if each["name"] == "mlp_100" and each["fields"]["teacher"] == exp.teacher.key)
    assert taught[-1].key == new["key"]
    assert len(new["fields"]["method"]["students"]) == 1  # it grew, and was not taught at once
    assert [each["fields"]["teacher"] for each in manifests if each["name"] == "mlp_16"] == [
        exp.teacher.key,
        new["key"],
    ]

    metrics, scores = (
        method.metrics(exp),
        [exp.scores(each.model, "test")["top1"] for each in (exp.teacher, taught[-1])],
    )
    assert metrics["new_teacher/top1_gain"] == pytest.approx(scores[1] - scores[0])
    assert [key for key in metrics if key.startswith("chain")] == [
        "chain1_mlp_16/top1",
        "chain2_mlp_100/top1",
        "chain3_mlp_16/top1",
    ]


def test_a_rehearsal_goes_through_every_link_once(out: Path) -> None:
    words = ("method.students=[mlp_16,mlp_30,mlp_32]", "method.new_teacher=mlp_100")
    seen = [summary.model for summary in assembled(config(out, *CHAIN, *words)).summaries()]
    chain = ["mlp_16", "mlp_30", "mlp_32", "mlp_100"]
    assert seen == ["mlp_100", *chain, *chain]


def test_a_chain_of_trained_models_trains_none_of_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, weights, _, _ = distilled(tmp_path)

    def untrained(*args: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Experiment, "_train", untrained)
    _, again, _, _ = distilled(tmp_path)
    assert same(again, weights)


@pytest.mark.parametrize("method", ["takd", "gskd"])
def test_each_link_of_a_chain_is_scored_on_the_test_split(method: str, out: Path) -> None:
    chain = "method.assistants=[mlp_32]" if method == "takd" else "method.students=[mlp_32]"
    words = ("teacher=mlp_100", "student=mlp_100", f"method={method}", chain)
    exp = experiment(out, *words)
    chained: Any = exp.method(config(out, *words)["method"])
    exp.follow(chained, Memory().journal)
    link = next(link for link in exp.chain if link.name == "mlp_32")
    logits, targets = exp.predict(link.model, "test")
    assert chained.metrics(exp) == {
        "chain1_mlp_32/top1": pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    }
