from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Interrupted, Memory, config, copied, experiment, same
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.errors import ConfigError
from kdrun.methods.wskd import WSKD, corrected, frozen_batchnorm
from kdrun.train.loop import Training, fit, one_step
from kdrun.train.metrics import beside_teacher
from kdrun.train.stage import Batch, Outputs, Stage, Step

NETS = ("teacher=mlp_16", "student=resnet8", "method=wskd", "batch_size=16", "method.bn=eval")
BASE = {"_target_": "kdrun.methods.kd.KD", "name": "kd"}


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that a teacher is trained once."""
    return tmp_path_factory.mktemp("store")


def mistaken(count: int = 40, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Probabilities whose largest is never that of the label."""
    generator = torch.Generator().manual_seed(0)
    soft = (2 * torch.randn(count, classes, generator=generator)).softmax(1)
    labels = (soft.argmax(1) + torch.randint(1, classes, (count,), generator=generator)) % classes
    return soft, labels


def begun(out: Path, *overrides: str) -> tuple[Experiment, Stage, WSKD]:
    exp = experiment(out, *NETS, *overrides)
    method = exp.method(config(out, *NETS, *overrides)["method"])
    assert isinstance(method, WSKD)
    return exp, next(method.stages(exp)), method


def follow(out: Path, *overrides: str) -> tuple[dict[str, Tensor], Memory]:
    exp, memory = experiment(out, *overrides), Memory()
    exp.follow(exp.method(config(out, *overrides)["method"]), memory.journal)
    return copied(exp.student), memory


def batch_of(exp: Experiment, labels: Tensor) -> Batch:
    images = torch.randn(len(labels), 1, 12, 12, generator=torch.Generator().manual_seed(1))
    return Batch(images, labels, torch.arange(len(labels)), torch.zeros_like(labels), 1)


def outputs(labels: Tensor, wrong: list[int]) -> Outputs:
    """A teacher's outputs that are wrong at some places only."""
    logits = torch.nn.functional.one_hot(labels, 10) * 3.0
    for place in wrong:
        logits[place] = logits[place].roll(1) * 2 + logits[place]
    return Outputs(logits, [])


def answer(stage: Stage, outputs: Outputs) -> RemovableHandle:
    """Lets the teacher of a stage answer every batch with the same outputs."""
    assert isinstance(stage.teacher, Trained)
    return stage.teacher.model.register_forward_hook(lambda module, args, own: outputs)


def answered(stage: Stage, batch: Batch, wrong: list[int]) -> Step:
    """A step in which the teacher is wrong at some places only."""
    assert stage.teacher is not None
    step, handle = Step(batch, stage), answer(stage, outputs(batch.targets, wrong))
    step(stage.teacher)
    handle.remove()
    return step


@pytest.mark.parametrize("rule", ["shift", "swap", "lsr"])
def test_corrected_targets_are_probabilities_that_peak_at_labels(rule: Any) -> None:
    soft, labels = mistaken()
    targets = corrected(soft, labels, rule, 0.05, 0.9)
    assert torch.allclose(targets.sum(1), torch.ones(40), atol=1e-6)
    assert (targets >= 0).all()
    assert torch.equal(targets.argmax(1), labels)


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.4])
def test_shift_puts_the_true_class_ahead_by_exactly_the_margin(margin: float) -> None:
    soft, labels = mistaken()
    targets = corrected(soft, labels, "shift", margin, 0.9).numpy()
    for row, label in zip(targets, labels.tolist(), strict=True):
        assert row[label] - np.delete(row, label).max() == pytest.approx(margin, abs=1e-6)


def test_shift_keeps_the_ratios_of_all_other_classes() -> None:
    soft, labels = mistaken()
    targets = corrected(soft, labels, "shift", 0.05, 0.9)
    for before, after, label in zip(soft.numpy(), targets.numpy(), labels.tolist(), strict=True):
        before, after = np.delete(before, label), np.delete(after, label)
        assert after / after[0] == pytest.approx(before / before[0], rel=1e-4)


def test_swap_is_a_permutation_of_two_classes() -> None:
    soft, labels = mistaken()
    targets = corrected(soft, labels, "swap", 0.05, 0.9)
    assert torch.equal(targets.sort(1).values, soft.sort(1).values)
    assert ((targets != soft).sum(1) == 2).all()


def test_the_rules_do_to_an_example_what_was_worked_out_by_hand() -> None:
    soft, label = torch.tensor([[0.547, 0.332, 0.090, 0.027, 0.004]]), torch.tensor([1])
    expected = {
        "shift": [0.428, 0.478, 0.071, 0.021, 0.003],
        "swap": [0.332, 0.547, 0.090, 0.027, 0.004],
        "lsr": [0.025, 0.9, 0.025, 0.025, 0.025],
        "none": [0.547, 0.332, 0.090, 0.027, 0.004],
    }
    for rule, values in expected.items():
        assert corrected(soft, label, rule, 0.05, 0.9)[0].tolist() == pytest.approx(values, abs=1e-3)  # type: ignore[arg-type]


def test_the_second_loss_uses_labels_and_corrected_targets() -> None:
    method = WSKD(BASE, ce_weight=0.3, kd_weight=0.7, temperature=2.0, rule="swap")
    student, teacher = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(3)).double()
    labels = (teacher.argmax(1) + 1) % 5
    terms = method.second(student, teacher, labels)
    soft = np.exp(teacher.numpy() / 2)
    soft /= soft.sum(1, keepdims=True)
    for row, label in zip(soft, labels.tolist(), strict=True):
        top = row.argmax()
        row[label], row[top] = row[top], row[label]
    log = student.numpy() / 2 - np.log(np.exp(student.numpy() / 2).sum(1, keepdims=True))
    distance = (soft * (np.log(soft) - log)).sum() / 4
    hard = student.numpy() - np.log(np.exp(student.numpy()).sum(1, keepdims=True))
    assert float(terms["wise_kd"]) == pytest.approx(0.7 * 4 * distance)
    assert float(terms["wise_ce"]) == pytest.approx(-0.3 * hard[range(4), labels.tolist()].mean())


def targets_of(method: WSKD, soft: Tensor, labels: Tensor) -> np.ndarray:
    """The targets of the second step, where ``kd_weight`` and ``temperature`` are 1.

    A divergence from p has at q = softmax(z), as a mean over N, the gradient (q - p) / N in z.
    """
    student = torch.zeros_like(soft, requires_grad=True)
    method.second(student, soft.log(), labels)["wise_kd"].backward()
    assert student.grad is not None
    return 1 / soft.shape[1] - len(soft) * student.grad.numpy()


def test_the_second_step_uses_its_margin_and_confidence() -> None:
    (soft, labels), rows = mistaken(), range(40)
    shift, lsr = (
        targets_of(WSKD(BASE, kd_weight=1.0, temperature=1.0, rule=rule, margin=0.3, confidence=0.6), soft, labels)
        for rule in ("shift", "lsr")
    )
    ahead = [row[label] - np.delete(row, label).max() for row, label in zip(shift, labels.tolist(), strict=True)]
    assert ahead == pytest.approx([0.3] * 40, abs=1e-5)
    assert lsr[rows, labels.tolist()].tolist() == pytest.approx([0.6] * 40, abs=1e-5)


def test_only_what_the_teacher_got_wrong_is_in_the_second_step(out: Path) -> None:
    exp, stage, _ = begun(out)
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    batch, seen = batch_of(exp, labels), []
    exp.student.register_forward_hook(lambda module, args, outputs: seen.append(args[0]))
    stage.updates[1].loss(answered(stage, batch, [1, 4]))
    assert torch.equal(seen[0], batch.images[[1, 4]])


def test_the_second_step_is_a_new_forward_after_the_first(out: Path) -> None:
    exp, stage, _ = begun(out)
    training, weights = Training.begin(stage, exp.recipe, exp.runtime), []
    exp.student.register_forward_hook(lambda module, args, outputs: weights.append(copied(module.model.fc)))
    labels = torch.tensor([0, 1, 2, 3])
    answer(stage, outputs(labels, wrong=[0, 1, 2]))
    before = copied(exp.student.model.fc)
    stage.modules.train()
    one_step(training, batch_of(exp, labels))
    assert [same(each, before) for each in weights] == [True, False]
    assert not same(copied(exp.student.model.fc), weights[1])


@pytest.mark.parametrize(("separate", "count"), [("false", 1), ("true", 2)])
def test_the_steps_share_an_optimizer_unless_set_otherwise(separate: str, count: int, out: Path) -> None:
    exp, stage, _ = begun(out, f"method.separate_optimizer={separate}")
    assert len({id(each) for each in Training.begin(stage, exp.recipe, exp.runtime).optimizers}) == count


@pytest.mark.parametrize("bn", ["eval", "buffer"])
@pytest.mark.parametrize("base", ["kd", "gan"])
def test_a_perfect_teacher_gives_the_base_method_bit_for_bit(bn: str, base: str, out: Path) -> None:
    learned = ("dataset.noise=0.01", "teacher.recipe.epochs=30", "student=resnet8", "epochs=2", "batch_size=16")
    expected, plain = follow(out, f"method={base}", *learned)
    weights, wise = follow(out, "method=wskd", f"method.base={base}", f"method.bn={bn}", *learned)
    assert [row["val/teacher_wrong"] for row in wise.rows] == [0.0, 0.0]
    assert same(weights, expected)
    assert [row["loss/ce"] for row in wise.rows] == [row["loss/ce"] for row in plain.rows]


def test_mistakes_change_the_training_and_their_share_is_scored(out: Path) -> None:
    words = ("student=resnet8", "batch_size=16")
    expected, _ = follow(out, "method=blkd", *words)
    weights, memory = follow(out, "method=wskd", *words)
    assert not same(weights, expected)
    exp = experiment(out, "method=wskd", *words)
    train = exp.data.subset
    images = (train.images.float() / 255 - 0.5) / 0.25
    wrong = (exp.teacher(images).logits.argmax(1) != train.targets).float().mean()
    assert memory.rows[0]["val/teacher_wrong"] == pytest.approx(float(wrong), abs=1e-6)


def test_each_epochs_share_of_mistakes_is_its_own(out: Path) -> None:
    exp, stage, _ = begun(out)
    assert stage.evaluate is not None
    labels, shares = torch.arange(6), []
    for wrong in ([1, 4], [0, 1, 2], []):
        stage.updates[1].loss(answered(stage, batch_of(exp, labels), wrong))
        shares.append(stage.evaluate()["teacher_wrong"])
    assert shares == pytest.approx([1 / 3, 1 / 2, 0])


def test_fewer_mistakes_than_the_least_are_no_second_step(out: Path) -> None:
    exp, stage, _ = begun(out, "method.min_subset=3")
    labels = torch.tensor([0, 1, 2, 3, 4, 5])
    batch = batch_of(exp, labels)
    assert stage.updates[1].loss(answered(stage, batch, [1, 4])) == {}
    assert set(stage.updates[1].loss(answered(stage, batch, [1, 4, 5]))) == {"wise_ce", "wise_kd"}


def test_the_second_step_leaves_batchnorm_as_it_is(out: Path) -> None:
    exp, stage, _ = begun(out)
    labels = torch.tensor([0, 1, 2, 3])
    exp.student.train()
    before = copied(exp.student.model.bn1)
    stage.updates[1].loss(answered(stage, batch_of(exp, labels), [2]))
    assert same(copied(exp.student.model.bn1), before)
    assert all(module.training for module in exp.student.modules())


def test_the_second_step_comes_before_that_of_another_player(out: Path) -> None:
    _, stage, _ = begun(out, "method.base=gan")
    assert [update.player for update in stage.updates] == ["student", "student", "discriminator"]
    batch = next(stage.stream.epoch(1))
    terms = [list(update.loss(answered(stage, batch, [0, 1]))) for update in stage.updates]
    assert terms == [["ce", "gan"], ["wise_ce", "wise_kd"], ["real", "fake"]]


def test_only_batchnorm_is_frozen() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Dropout())
    with frozen_batchnorm(net):
        assert [module.training for module in net] == [True, False, True]
    assert [module.training for module in net] == [True, True, True]


def test_a_buffer_waits_for_enough_mistakes_and_gives_each_once(out: Path) -> None:
    exp, stage, _ = begun(out, "method.bn=buffer", "method.buffer=5")
    labels, sizes, inputs = torch.arange(8), [], []
    exp.student.register_forward_hook(lambda module, args, outputs: inputs.append(args[0]))
    batch = batch_of(exp, labels)
    for wrong in ([0, 1], [2, 3], [4, 5], [6], [0, 1, 2, 3]):
        terms = stage.updates[1].loss(answered(stage, batch, wrong))
        sizes.append(len(terms))
    assert sizes == [0, 0, 2, 0, 2]
    assert torch.equal(inputs[0], batch.images[[0, 1, 2, 3, 4, 5]])
    assert torch.equal(inputs[1], batch.images[[6, 0, 1, 2, 3]])


@pytest.mark.parametrize(("student", "terms"), [("mlp_16", 2), ("resnet8", 0)])
def test_only_a_student_with_batchnorm_waits_for_more_mistakes(student: str, terms: int, out: Path) -> None:
    exp, stage, _ = begun(out, f"student={student}", "method.bn=buffer")
    labels = torch.arange(4)
    assert len(stage.updates[1].loss(answered(stage, batch_of(exp, labels), [0, 2]))) == terms


def test_a_stop_with_a_filled_buffer_ends_in_the_same_bits(out: Path) -> None:
    words = ("method.bn=buffer", "method.buffer=24", "epochs=2", "batch_size=16")
    exp, stage, method = begun(out, *words)
    whole = Memory()
    fit(stage, exp.recipe, exp.runtime, whole)
    expected = copied(exp.student)

    exp, stage, method = begun(out, *words)
    memory = Memory()
    memory.stop = (exp.runtime, 4)
    with pytest.raises(Interrupted):
        fit(stage, exp.recipe, exp.runtime, memory)
    assert int(method.count) > 0
    exp, stage, _ = begun(out, *words)
    again = Memory(memory.state)
    fit(stage, exp.recipe, exp.runtime, again)
    assert same(copied(exp.student), expected)
    assert again.rows[-1]["val/teacher_wrong"] == whole.rows[-1]["val/teacher_wrong"]


@pytest.mark.parametrize("base", ["takd", "fitnets", "gskd"])
def test_any_method_that_teaches_by_outputs_is_a_base(base: str, out: Path) -> None:
    _, memory = follow(out, "method=wskd", f"method.base={base}")
    assert [len(stage.updates) for stage in memory.stages] == ([1, 2] if base == "fitnets" else [2])
    assert {"loss/wise_ce", "loss/wise_kd"} <= set(memory.rows[-1])


def test_a_margin_of_all_the_probability_is_refused(out: Path) -> None:
    with pytest.raises(ConfigError, match=r"method\.margin"):
        begun(out, "method.margin=1")


def test_accuracy_is_split_by_whether_the_teacher_is_right() -> None:
    eye = torch.eye(4)
    targets, teacher, student = eye, eye[[0, 1, 3, 2]], eye[[0, 2, 2, 1]]
    scores = beside_teacher(student.argmax(1), teacher.argmax(1), targets.argmax(1))
    assert scores == {"top1_teacher_right": 0.5, "top1_teacher_wrong": 0.5}
    assert beside_teacher(student.argmax(1), targets.argmax(1), targets.argmax(1)) == {"top1_teacher_right": 0.5}


def test_a_rare_mistake_is_worth_a_word(out: Path) -> None:
    exp, _, method = begun(out)
    notices: list[str] = []
    for share in (0.2, 0.001):
        method.share = share
        metrics = method.metrics(replace(exp, notice=notices.append))
        assert metrics == {"teacher_wrong_on_train": share}
    assert notices == ["the teacher errs on 0.10% of the training images: wskd is little but its base"]


def test_around_assistants_the_last_ones_mistakes_are_corrected(tmp_path: Path) -> None:
    words = (*NETS, "teacher=resnet8", "method.base=takd", "method.base.assistants=[mlp_32,mlp_16]")
    exp = experiment(tmp_path, *words)
    method: Any = exp.method(config(tmp_path, *words)["method"])
    stage = next(method.stages(exp))
    assert isinstance(stage.teacher, Trained)
    assert [link.name for link in exp.chain] == ["resnet8", "mlp_32", "mlp_16"]
    assert stage.teacher is exp.chain[-1]
    batch, corrections = next(stage.stream.epoch(1)), []
    with torch.no_grad():
        logits = stage.teacher(batch.images).logits
        first = exp.teacher(batch.images).logits
    wrong, other = (guess.argmax(1) != batch.targets for guess in (logits, first))
    assert wrong.any() and not torch.equal(wrong, other)
    second = method.second
    method.second = lambda student, teacher, labels: (
        corrections.append((teacher, labels)) or second(student, teacher, labels)
    )
    stage.updates[1].loss(Step(batch, stage))
    assert torch.equal(corrections[0][0], logits[wrong])
    assert torch.equal(corrections[0][1], batch.targets[wrong])
