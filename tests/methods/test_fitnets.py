from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny import Memory, assembled, config, copied, experiment, same
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.base import choose
from kdrun.methods.fitnets import FitNets, Regressor
from kdrun.train.loop import Training, fit, one_step
from kdrun.train.stage import Batch, Outputs, Step

Shape = tuple[int, ...]


@pytest.fixture(scope="module")
def exp(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """An experiment of one epoch."""
    return experiment(tmp_path_factory.mktemp("fitnets"), "method=fitnets")


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({"decay_end": 4}, [3, 2, 1, 0, 0, 0]),
        ({"decay_start": 3, "decay_end": 6}, [4, 4, 3, 2, 1, 0]),
        ({"decay_start": 4, "decay_end": 4}, [4, 4, 4, 0, 0, 0]),
        ({"decay_end": 4, "kd_weight_end": 2.0}, [3.5, 3, 2.5, 2, 2, 2]),
        ({"decay_end": 2, "kd_weight": 1.0, "kd_weight_end": 3.0}, [2, 3, 3, 3, 3, 3]),
    ],
)
def test_the_soft_weight_falls_linearly_from_start_to_end(
    settings: dict[str, float], weights: list[float], exp: Experiment
) -> None:
    method = FitNets(**settings)  # type: ignore[arg-type]
    method.setup(exp)
    assert [method.soft_weight(epoch) for epoch in range(1, 7)] == pytest.approx(weights)


def test_by_default_the_soft_weight_is_0_at_the_last_epoch(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=fitnets", "epochs=4")
    method = FitNets()
    next(method.stages(exp))
    assert [method.soft_weight(epoch) for epoch in range(1, 5)] == pytest.approx([3, 2, 1, 0])


def test_a_decay_start_after_the_last_epoch_never_starts(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=fitnets", "epochs=3")
    for start in (4, 5, 9):
        method = FitNets(decay_start=start)
        next(method.stages(exp))
        assert [method.soft_weight(epoch) for epoch in (1, 2, 3)] == [4, 4, 4]


def test_a_decay_that_ends_before_it_starts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^method: decay_end=2 lies before decay_start=3$"):
        experiment(tmp_path, "method=fitnets", "method.decay_start=3", "method.decay_end=2")


@pytest.mark.parametrize(
    ("guided", "hint", "weights"),
    [
        ((1, 4, 8, 8), (1, 6, 8, 8), (6, 4, 1, 1)),
        ((1, 4, 8, 7), (1, 6, 5, 3), (6, 4, 4, 5)),
        ((1, 4, 8, 8), (1, 12), (12, 4 * 64)),
        ((1, 9), (1, 6, 2, 3), (36, 9)),
        ((1, 9), (1, 12), (12, 9)),
    ],
)
@pytest.mark.parametrize(("activation", "pieces"), [("relu", 1), ("maxout", 2), ("linear", 1)])
def test_the_regressor_leads_from_any_shape_to_that_of_the_hint(
    guided: Shape, hint: Shape, weights: Shape, activation: str, pieces: int
) -> None:
    torch.manual_seed(0)
    regressor = Regressor(torch.Size(guided), torch.Size(hint), activation)  # type: ignore[arg-type]
    mapped = regressor(torch.randn(5, *guided[1:]))
    assert mapped.shape == (5, *hint[1:])
    assert next(regressor.parameters()).shape == (pieces * weights[0], *weights[1:])
    assert bool((mapped < 0).any()) == (activation != "relu")


def test_the_papers_regressor_maps_layer_four_to_layer_two(tmp_path: Path) -> None:
    words = ("dataset.size=28", "method=fitnets", "student=maxout6", "teacher=maxout3")
    models = assembled(config(tmp_path, *words))
    student, teacher = (models.exp.shapes(models.models()[role]) for role in ("student", "teacher"))
    assert (student[3], teacher[1]) == ((1, 16, 4, 4), (1, 48, 4, 4))
    method = FitNets(hint=1, guided=3, regressor="maxout")
    method.connect(student, teacher)
    assert next(method.mapping.parameters()).shape == (2 * 48, 16, 1, 1)


def test_maxout_takes_the_larger_of_two_linear_pieces() -> None:
    regressor = Regressor(torch.Size((1, 3)), torch.Size((1, 2)), "maxout")
    feature = torch.randn(4, 3)
    pieces = feature @ regressor.layer[1].weight.T + regressor.layer[1].bias
    torch.testing.assert_close(regressor(feature), torch.maximum(pieces[:, :2], pieces[:, 2:]))


def test_a_student_map_below_the_teachers_size_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Regressor(torch.Size((1, 4, 3, 8)), torch.Size((1, 6, 5, 5)), "relu")
    what = "no convolution leads from the student's 4x3x8 up to the teacher's 6x5x5"
    assert str(caught.value) == f"method.guided: {what}; choose an earlier guided or a later hint"


def test_the_middle_tap_of_the_candidates_is_the_default() -> None:
    shapes = [torch.Size((1, 3))] * 5
    assert [choose("hint", None, shapes, "teacher", range(count)) for count in (1, 2, 3, 5)] == [0, 1, 1, 2]
    assert choose("hint", None, shapes, "teacher", [3, 4]) == 4
    assert choose("hint", 4, shapes, "teacher", [0]) == 4


def test_the_default_hint_has_the_rank_of_the_guided_layer() -> None:
    row, plane = torch.Size((1, 8)), torch.Size((1, 2, 4, 4))
    for guided, teacher, hint in (
        (row, [plane, plane, row], 2),
        (plane, [row, plane, row], 1),
        (row, [plane, plane, plane], 1),
    ):
        method = FitNets()
        method.connect([guided], teacher)
        assert method.teacher_tap == hint


def test_a_tap_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^method.hint: 2 is out of range: the teacher has taps 0 to 1$"):
        choose("hint", 2, [torch.Size((1, 3))] * 2, "teacher", range(2))
    with pytest.raises(ConfigError, match=r"^student.taps: the method needs a tap in the student"):
        choose("guided", None, [], "student", [])


def test_the_second_stage_has_no_factor_t_squared(exp: Experiment) -> None:
    method = FitNets(ce_weight=0.5, kd_weight=8.0, decay_end=4, temperature=5.0)
    method.setup(exp)
    student, teacher = torch.randn(2, 6, 5)
    labels = torch.arange(6) % 5
    batch = Batch(torch.zeros(6), labels, labels, labels, 2)
    terms = method.loss(Outputs(student, []), Outputs(teacher, []), batch)
    soft = -(F.softmax(teacher / 5, 1) * F.log_softmax(student / 5, 1)).sum() / 6
    torch.testing.assert_close(terms["kd"], 4.0 * soft)
    torch.testing.assert_close(terms["ce"], 0.5 * F.nll_loss(F.log_softmax(student, 1), labels))


NETS = ("teacher=resnet8", "student=resnet8", "method=fitnets", "optimizer=sgd", "optimizer.lr=0.1", "batch_size=8")


@pytest.fixture(scope="module")
def hinted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, dict[str, Tensor], dict[str, Tensor], Memory]:
    """An experiment after its hint stage, student and teacher as they were before it, and the stage's journal."""
    out = tmp_path_factory.mktemp("hinted")
    overrides = [*NETS, "method.guided=1", "method.hint=1", "method.hint_epochs=4", "teacher.recipe.epochs=1"]
    exp, memory = experiment(out, *overrides), Memory()
    student, teacher = copied(exp.student), copied(exp.teacher.model)
    method = exp.method(config(out, *overrides)["method"])
    fit(next(method.stages(exp)), exp.recipe, exp.runtime, memory)
    return exp, student, teacher, memory


def test_the_hint_stage_trains_no_layer_behind_the_guided_one(
    hinted: tuple[Experiment, dict[str, Tensor], dict[str, Tensor], Memory],
) -> None:
    exp, student, _, _ = hinted
    changed = {name for name, tensor in copied(exp.student).items() if not torch.equal(tensor, student[name])}
    upper = {name for name in student if name.split(".")[1] in ("conv1", "bn1", "layer1", "layer2")}
    assert changed == upper


def test_the_hint_stage_leaves_the_teacher_as_it_is(
    hinted: tuple[Experiment, dict[str, Tensor], dict[str, Tensor], Memory],
) -> None:
    exp, _, teacher, _ = hinted
    assert same(copied(exp.teacher.model), teacher)


def test_the_hint_loss_falls_in_training_and_in_validation(
    hinted: tuple[Experiment, dict[str, Tensor], dict[str, Tensor], Memory],
) -> None:
    rows = hinted[3].rows
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss/hint"] < 0.8 * rows[0]["loss/hint"]
    assert rows[-1]["val/hint"] < 0.95 * rows[0]["val/hint"]


def test_the_hint_loss_is_half_the_mean_squared_distance(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=fitnets", "method.hint_weight=3")
    method = FitNets(hint_weight=3.0)
    stage = next(method.stages(exp))
    batch = next(stage.stream.epoch(1))
    stage.modules.eval()
    with torch.no_grad():
        hint = exp.teacher(batch.images).features[0]
        guess = method.mapping(exp.student(batch.images).features[0])
        distance = stage.updates[0].loss(Step(batch, stage))["hint"]
    assert float(distance) == pytest.approx(3 * 0.5 * float((guess - hint).square().sum()) / guess.numel(), rel=1e-5)


def test_hint_and_guided_layer_may_have_different_places(tmp_path: Path) -> None:
    exp = experiment(tmp_path, *NETS)
    method = FitNets(hint=2, guided=1)
    stage = next(method.stages(exp))
    batch = next(stage.stream.epoch(1))
    stage.modules.eval()
    with torch.no_grad():
        hint = exp.teacher(batch.images).features[2]
        guess = method.mapping(exp.student(batch.images).features[1])
        distance = stage.updates[0].loss(Step(batch, stage))["hint"]
    assert float(distance) == pytest.approx(0.5 * float((guess - hint).square().sum()) / guess.numel(), rel=1e-5)


def test_the_hint_score_is_the_mean_over_validation_images(tmp_path: Path) -> None:
    exp = experiment(tmp_path, *NETS, "dataset.train_count=600", "dataset.val_fraction=0.5")
    method = FitNets(hint=1, guided=1)
    stage = next(method.stages(exp))
    assert len([None for _ in exp.batches("val")]) == 2  # of 256 and of 44 images
    distances = []
    stage.modules.eval()
    with torch.no_grad():
        for batch in exp.batches("val"):
            hint = exp.teacher(batch.images).features[1]
            guess = method.mapping(exp.student(batch.images).features[1])
            distances.append(0.5 * (guess - hint).square().flatten(1).mean(1))
    stage.modules.train()
    assert stage.evaluate is not None
    assert stage.evaluate()["hint"] == pytest.approx(float(torch.cat(distances).mean()), rel=1e-5)


def test_the_second_stage_starts_from_the_firsts_best_epoch(tmp_path: Path) -> None:
    overrides = ["method=fitnets", "method.hint_epochs=3", "optimizer.lr=0.5"]  # far too large: it gets worse
    exp, memory = experiment(tmp_path, *overrides), Memory()
    stages = exp.method(config(tmp_path, *overrides)["method"]).stages(exp)
    first = next(stages)
    scores = fit(first, exp.recipe, exp.runtime, memory)
    values = [row["val/hint"] for row in memory.rows]
    assert scores["hint"] == min(values)
    assert scores["epoch"] == values.index(min(values)) + 1
    assert first.evaluate is not None
    assert first.evaluate()["hint"] == pytest.approx(min(values))
    assert stages.send(scores).name == "distill"


@pytest.mark.parametrize("scale", [1.0, 0.1, 0.0])
def test_lr_scale_sets_the_rate_of_the_hint_trained_layers(scale: float, tmp_path: Path) -> None:
    overrides = [*NETS, "method.guided=1", "method.hint=1", f"method.lr_scale={scale}", "schedule=constant"]
    exp = experiment(tmp_path, *overrides)
    stages = exp.method(config(tmp_path, *overrides)["method"]).stages(exp)
    next(stages)
    stage = stages.send({"hint": 0.0})
    training = Training.begin(stage, exp.recipe, exp.runtime)
    groups = training.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == ([0.1] if scale == 1 else [0.1, pytest.approx(0.1 * scale)])
    before = copied(exp.student.model)
    stage.modules.train()
    one_step(training, next(stage.stream.epoch(1)))
    named = dict(exp.student.model.named_parameters())
    moved = {name for name, parameter in named.items() if not torch.equal(parameter, before[name])}
    upper = {name for name in named if name.split(".")[0] in ("conv1", "bn1", "layer1", "layer2")}
    assert moved == set(named) - (upper if scale == 0 else set())
    if scale == 0.1:
        assert {id(parameter) for parameter in groups[1]["params"]} == {id(named[name]) for name in upper}
