from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Memory, config, copied, experiment, same
from torch import nn

from kdrun.config.compose import compose
from kdrun.core.experiment import Experiment
from kdrun.data.source import Split
from kdrun.data.streams import Stream
from kdrun.errors import ConfigError
from kdrun.methods.impressions import (
    Impressions,
    ImpressionStream,
    IndexStream,
    concentrations,
    dirichlet,
    initial_noise,
    moved,
)
from kdrun.methods.zskd import ZSKD, binary_cross_entropy, similarity
from kdrun.report.impressions import grid
from kdrun.run.run import run
from kdrun.train.loop import fit
from kdrun.train.stage import Batch, Outputs, Step
from kdrun.train.taps import Tapped

SMALL = ("method=zskd", "method.count=60", "method.impression_batch=4", "method.impression_epochs=3")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that a teacher is trained once."""
    return tmp_path_factory.mktemp("store")


def prepared(out: Path, *overrides: str) -> tuple[Experiment, ZSKD]:
    exp = experiment(out, *SMALL, *overrides)
    method = exp.method(config(out, *SMALL, *overrides)["method"])
    assert isinstance(method, ZSKD)
    return exp, method


def followed(out: Path, *overrides: str) -> tuple[Experiment, ZSKD, Memory]:
    (exp, method), memory = prepared(out, *overrides), Memory()
    exp.follow(method, memory.journal)
    return exp, method, memory


def test_similarity_is_the_cosine_of_rows() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    cosines, rows = similarity(weight), weight.double().numpy()
    for i, one in enumerate(rows):
        for j, other in enumerate(rows):
            expected = one @ other / np.sqrt((one @ one) * (other @ other))
            assert float(cosines[i, j]) == pytest.approx(expected)
    assert torch.allclose(cosines, cosines.T)
    assert cosines.diag().tolist() == pytest.approx([1.0] * 5)


def test_concentrations_run_from_zero_to_the_scale(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[torch.Tensor] = []
    Dirichlet = torch.distributions.Dirichlet
    monkeypatch.setattr(torch.distributions, "Dirichlet", lambda values: calls.append(values) or Dirichlet(values))
    likeness = torch.tensor([[0.2, 1.0, -0.4, 0.3]], dtype=torch.float64)
    dirichlet(concentrations(likeness)[0], torch.tensor([1.0, 0.1], dtype=torch.float64))
    for row, scale in zip(calls[0].tolist(), (1.0, 0.1), strict=True):
        assert row == pytest.approx([scale * 0.6 / 1.4 + 1e-4, scale + 1e-4, 1e-4, scale * 0.5 + 1e-4])


def test_targets_are_probabilities_with_the_dirichlet_mean() -> None:
    torch.manual_seed(0)
    likeness = torch.tensor([[1.0, 0.2, -0.5]], dtype=torch.float64)
    targets = dirichlet(concentrations(likeness)[0], torch.ones(20000, dtype=torch.float64))
    assert torch.allclose(targets.sum(1), torch.ones(20000), atol=1e-5)
    assert targets.min() >= 0
    weight = np.array([1.5, 0.7, 0.0]) / 1.5 + 1e-4
    assert targets.mean(0).tolist() == pytest.approx((weight / weight.sum()).tolist(), abs=0.01)


def test_small_scales_put_nearly_everything_on_one_class() -> None:
    torch.manual_seed(0)
    likeness = concentrations(torch.tensor([[1.0, 0.8, 0.7, 0.1]], dtype=torch.float64))[0]
    mild, sharp = (dirichlet(likeness, torch.full((500,), scale, dtype=torch.float64)) for scale in (1.0, 0.1))
    assert sharp.max(1).values.mean() > 0.9 > mild.max(1).values.mean()


def test_scaled_similarities_have_one_zero_and_a_unit_diagonal() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    for within, side in (("row", 1), ("column", 0)):
        scaled = concentrations(similarity(weight), within)
        assert scaled.amin(side).tolist() == [0.0] * 5
        assert scaled.diag().tolist() == pytest.approx([1.0] * 5)
        assert (scaled == 0).sum() == 5
    assert not torch.equal(scaled, concentrations(similarity(weight)))


@pytest.mark.parametrize(("reject", "least", "most"), [("false", 0.2, 0.8), ("true", 1.0, 1.0)])
def test_rejection_keeps_only_targets_that_peak_at_their_class(
    reject: str, least: float, most: float, out: Path
) -> None:
    exp, method = prepared(out, f"method.reject={reject}", "method.count=600")
    next(method.stages(exp))
    alike = torch.cat([method.initial(exp, label).targets.argmax(1) == label for label in range(10)])
    assert least <= float(alike.float().mean()) <= most


def test_half_of_a_class_has_each_scale(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[torch.Tensor] = []
    monkeypatch.setattr(
        "kdrun.methods.zskd.dirichlet",
        lambda row, scales, label: calls.append(scales) or torch.full((len(scales), 10), 0.1),
    )
    exp, method = prepared(out)
    next(method.stages(exp))
    assert sorted(calls[0].tolist()) == [0.1] * 3 + [1.0] * 3


def test_there_is_a_stage_for_each_class_and_one_for_the_student(out: Path) -> None:
    _, _, memory = followed(out)
    assert [stage.name for stage in memory.stages] == [*(f"impressions{label}" for label in range(10)), "distill"]
    assert [sum(p.numel() for p in stage.updates[0].params) for stage in memory.stages[:10]] == [6 * 144] * 10  # type: ignore[union-attr]


def test_impressions_go_down_cross_entropy_at_their_temperature(out: Path) -> None:
    torch.manual_seed(0)  # what impressions and targets are drawn from
    exp, method = prepared(out, "method.temperature=7")
    with torch.no_grad():
        exp.classifier(exp.teacher, "teacher").weight.mul_(30)  # logits so far apart that a forgotten temperature shows
    stage = next(method.stages(exp))
    impressions = method.sets[0]
    batch = list(stage.stream.epoch(1))[1]
    assert batch.index.tolist() == [4, 5]
    loss = float(stage.updates[0].loss(Step(batch, stage))["ce"].detach())
    logits = exp.teacher(impressions.images()[4:]).logits.double().numpy()
    assert logits.std() > 1
    softened = logits / 7
    log = softened - np.log(np.exp(softened).sum(1, keepdims=True))
    assert loss == pytest.approx(-(impressions.targets[4:].numpy() * log).sum(1).mean(), rel=1e-6)


def test_impressions_approach_their_targets_with_valid_pixels(out: Path) -> None:
    exp, method = prepared(out, "method.impression_epochs=30")
    stage, memory = next(method.stages(exp)), Memory()
    fit(stage, exp.recipe, exp.runtime, memory)
    losses = [row["loss/impressions/ce"] for row in memory.rows]
    assert losses[-1] < losses[0]
    pixels = method.sets[0].images() * 0.25 + 0.5  # of the synthetic set: mean .5, std .25
    assert pixels.min() >= -1e-6
    assert pixels.max() <= 1 + 1e-6


def test_the_students_schedule_does_not_scale_impression_lr(out: Path) -> None:
    _, _, memory = followed(out, "schedule=cosine", "method.lr=0.25", "epochs=3")
    assert {row["lr/0"] for row in memory.rows if "loss/impressions/ce" in row} == {0.25}
    assert len({row["lr/0"] for row in memory.rows if "loss/impressions/ce" not in row}) == 3


def test_without_a_constraint_pixels_go_where_they_like(out: Path) -> None:
    exp, method = prepared(out, "method.constraint=none")
    fit(next(method.stages(exp)), exp.recipe, exp.runtime, Memory())
    assert method.sets[0].images().abs().max() > 2.05  # pixels that exist end at 2


def test_a_step_on_one_batch_changes_neither_others_nor_teacher(out: Path) -> None:
    exp, method = prepared(out)
    stage = next(method.stages(exp))
    before, teacher = [part.detach().clone() for part in method.sets[0].batches], copied(exp.teacher.model)
    optimizer = stage.updates[0].optimizer(list(stage.updates[0].params))  # type: ignore[misc, operator]
    for _ in range(2):
        optimizer.zero_grad()
        sum(stage.updates[0].loss(Step(next(stage.stream.epoch(1)), stage)).values()).backward()  # type: ignore[union-attr]
        optimizer.step()
    changed = [not torch.equal(part, was) for part, was in zip(method.sets[0].batches, before, strict=True)]
    assert changed == [True, False]
    assert same(copied(exp.teacher.model), teacher)


def test_no_real_image_is_read_after_the_teachers_training(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exp, method = prepared(out)

    def opened(self: Stream, number: int, start: int = 0) -> Iterator[Batch]:
        raise AssertionError("a real training image was read")

    monkeypatch.setattr(Stream, "epoch", opened)
    before = copied(exp.student)
    exp.follow(method, Memory().journal)
    assert not same(copied(exp.student), before)


def test_real_training_images_change_no_bit_of_the_student(out: Path) -> None:
    students = []
    for black in (False, True):
        exp, method = prepared(out)
        if black:
            unseen = {name: Split(*(part * 0 for part in getattr(exp.data, name))) for name in ("train", "subset")}
            exp = replace(exp, data=replace(exp.data, **unseen))
        exp.follow(method, Memory().journal)
        students.append(copied(exp.student))
    assert same(*students)


def test_real_validation_images_select_no_epoch(out: Path) -> None:
    _, _, memory = followed(out, "epochs=3")
    assert [stage.select for stage in memory.stages] == [None] * 11


def test_real_validation_images_end_no_distillation_early(out: Path) -> None:
    exp, method = prepared(out, "method.impressions=noise")
    exp = replace(exp, plan=replace(exp.plan, node={**exp.plan.node, "stop_at": 0.5}))
    assert exp.recipe.stop_at == 0.5
    assert not next(method.stages(exp)).until({"top1": 1.0})


def test_an_epoch_shows_every_impression_once_in_a_new_order(out: Path) -> None:
    images = torch.arange(7.0).view(7, 1, 1, 1)
    stream = ImpressionStream(images, size=3, seed=1)
    epochs = [[batch.images.flatten().tolist() for batch in stream.epoch(number)] for number in (1, 2, 1)]
    assert epochs[0] == epochs[2] != epochs[1]
    assert [sorted(image for batch in epoch for image in batch) for epoch in epochs[:2]] == [list(range(7))] * 2
    assert len(epochs[0]) == len(stream) == 3
    assert min(map(len, epochs[0])) > 1  # BatchNorm cannot take one
    assert [batch.images.flatten().tolist() for batch in stream.epoch(2, start=1)] == epochs[1][1:]


@pytest.mark.parametrize("kind", ["synthesized", "noise"])
def test_the_student_sees_exactly_the_impressions_of_all_classes(kind: str, out: Path) -> None:
    _, method, memory = followed(out, f"method.impressions={kind}")
    batches = list(memory.stages[-1].stream.epoch(1))
    index = torch.cat([batch.index for batch in batches])
    pixels = torch.cat([part.detach() for label in range(10) for part in method.sets[label].batches])
    assert sorted(index.tolist()) == list(range(60))
    assert torch.equal(torch.cat([batch.images for batch in batches]), pixels[index])


def first_batch(out: Path, *overrides: str) -> Batch:
    """The first batch of noise of the student's stage."""
    exp, method = prepared(out, "method.impressions=noise", *overrides)
    torch.manual_seed(0)
    return next(iter(next(method.stages(exp)).stream.epoch(1)))


def test_the_runs_seed_orders_impressions_and_augment_moves_them(out: Path) -> None:
    one, other, moving = (
        first_batch(out, "seed=1"),
        first_batch(out, "seed=2"),
        first_batch(out, "seed=1", "method.augment=true"),
    )
    assert not torch.equal(one.index, other.index)
    assert torch.equal(one.index, moving.index)
    assert all(not torch.equal(*pair) for pair in zip(one.images, moving.images, strict=True))


@pytest.mark.parametrize(("within", "side", "other"), [("row", 1, 0), ("column", 0, 1)])
def test_similarities_are_scaled_within_rows_or_columns_as_set(
    within: str, side: int, other: int, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[torch.Tensor] = []
    monkeypatch.setattr(
        "kdrun.methods.zskd.dirichlet",
        lambda around, scales, label: calls.append(around) or torch.full((len(scales), 10), 0.1),
    )
    exp, method = prepared(out, "method.impressions=noise", f"method.within={within}")
    next(method.stages(exp))
    rows = torch.stack(calls)
    assert (rows.amin(side) == 0).all()
    assert not (rows.amin(other) == 0).all()


def test_the_loss_is_the_divergence_from_the_soft_teacher_output() -> None:
    student, teacher = 9 * torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0)).double()
    unlabelled = torch.full((6,), -1)
    batch = Batch(student, unlabelled, unlabelled, unlabelled, 1)
    terms = ZSKD(kd_weight=0.5, temperature=4.0).loss(Outputs(student, []), Outputs(teacher, []), batch)
    logs = [each - np.log(np.exp(each).sum(1, keepdims=True)) for each in (student.numpy() / 4, teacher.numpy() / 4)]
    expected = 0.5 * 4**2 * (np.exp(logs[1]) * (logs[1] - logs[0])).sum(1).mean()
    assert list(terms) == ["kd"]
    assert float(terms["kd"]) == pytest.approx(expected)
    terms = ZSKD(ce_weight=0.5).loss(Outputs(student, []), Outputs(teacher, []), batch)
    log = student.numpy() - np.log(np.exp(student.numpy()).sum(1, keepdims=True))
    assert float(terms["ce"]) == pytest.approx(-0.5 * log[range(6), teacher.argmax(1).tolist()].mean())


def test_binary_cross_entropy_is_torchs_and_finite_at_one() -> None:
    logits, teacher = 4 * torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    unlabelled = torch.full((6,), -1)
    batch = Batch(logits, unlabelled, unlabelled, unlabelled, 1)
    method = ZSKD(student_loss="bce", kd_weight=2.0, temperature=6.0)
    terms = method.loss(Outputs(logits, []), Outputs(teacher, []), batch)
    expected = 2 * torch.nn.functional.binary_cross_entropy(logits.softmax(1), (teacher / 6).softmax(1))
    assert list(terms) == ["kd"]
    torch.testing.assert_close(terms["kd"], expected)
    sure = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    binary_cross_entropy(sure, torch.full((1, 3), 1 / 3)).backward()
    assert sure.grad is not None and sure.grad.isfinite().all() and sure.grad.any()


def test_moved_images_turn_shrink_and_shift_by_their_draw() -> None:
    image = torch.zeros(1, 1, 9, 9)
    image[..., 1, 4] = 1.0  # above the middle
    centre, half = torch.tensor([0.5, 0.0, 0.5, 0.5]), 0.5
    torch.testing.assert_close(moved(image, centre[None]), image, atol=1e-4, rtol=0)
    turned = moved(image, torch.tensor([[0.0, 0.0, half, half]]))[0, 0]
    assert (turned.max(1).values.argmax().item(), turned.max(0).values.argmax().item()) in {(4, 1), (4, 7)}
    assert float(turned.max()) == pytest.approx(1.0, abs=1e-3)
    shrunk = moved(image, torch.tensor([[half, 1.0, half, half]]))[0, 0]
    assert shrunk.max(1).values.argmax() == 2  # 3 rows above the middle became 1.8
    shifted = moved(image, torch.tensor([[half, 0.0, half + 2 / 9 / 0.8, half]]))[0, 0]
    assert torch.allclose(shifted[:, 3], image[0, 0, :, 4], atol=1e-4)


def test_augmentation_varies_by_epoch_and_repeats_on_resume() -> None:
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    stream = ImpressionStream(images, size=3, seed=1, augment=True)
    first, second, again = (list(stream.epoch(number)) for number in (1, 2, 1))
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.images, other.images)
        assert not torch.equal(one.images, images[one.index])
    order = [torch.cat([batch.index for batch in epoch]).argsort() for epoch in (first, second)]
    moves = [
        torch.cat([batch.images for batch in epoch])[place] for epoch, place in zip((first, second), order, strict=True)
    ]
    assert not torch.equal(*moves)
    assert torch.equal(next(iter(stream.epoch(2, start=1))).images, second[1].images)


def test_the_control_teaches_by_noise_and_makes_no_impression(out: Path) -> None:
    _, noise, memory = followed(out, "method.impressions=noise")
    assert [stage.name for stage in memory.stages] == ["distill"]
    pixels = noise.sets[0].images() * 0.25 + 0.5
    assert 0.3 < pixels.mean() < 0.7
    assert pixels.std() > 0.15


@pytest.mark.parametrize(("constraint", "inside"), [("clamp", True), ("none", False)])
def test_images_of_noise_obey_the_constraint_from_the_start(constraint: str, inside: bool, out: Path) -> None:
    exp, method = prepared(out, "method.noise=normal", f"method.constraint={constraint}")
    method.begin(exp)
    pixels = method.initial(exp, 0).images() * 0.25 + 0.5
    assert bool((pixels >= -1e-6).all() and (pixels <= 1 + 1e-6).all()) == inside


def test_noise_is_normal_normalized_or_uniform_in_pixels() -> None:
    torch.manual_seed(0)
    shape, mean, std = (300, 2, 9, 9), [0.2, 0.7], [0.5, 0.1]
    normal, uniform = initial_noise("normal", shape, mean, std), initial_noise("uniform", shape, mean, std)
    assert (float(normal.mean()), float(normal.var())) == pytest.approx((0, 1), abs=0.02)
    for channel in (0, 1):
        pixels = uniform[:, channel] * std[channel] + mean[channel]
        assert float(pixels.min()) == pytest.approx(0, abs=1e-3)
        assert float(pixels.max()) == pytest.approx(1, abs=1e-3)
        assert float(pixels.var()) == pytest.approx(1 / 12, rel=0.02)


@pytest.mark.parametrize(("noise", "outer"), [("uniform", 0.25), ("normal", 0.136)])
def test_impressions_begin_as_the_noise_that_is_configured(noise: str, outer: float, out: Path) -> None:
    _, begun, _ = followed(out, "method.impressions=noise", f"method.noise={noise}")
    pixels = begun.sets[0].images() * 0.25 + 0.5
    inside = (pixels > 0) & (pixels < 1)  # what was clamped lies on the border
    low, *_, high = torch.histc(pixels[inside], 4, 0, 1) / pixels.numel()
    assert (float(low), float(high)) == pytest.approx((outer, outer), abs=0.04)


def test_a_stage_of_places_holds_no_image() -> None:
    impressions = Impressions(torch.randn(5, 1, 2, 2), torch.full((5, 3), 1 / 3), 2, [0.5], [0.25])
    stream = IndexStream(impressions.batches)
    assert [batch.index.tolist() for batch in stream.epoch(1)] == [[0, 1], [2, 3], [4]]
    assert [batch.index.tolist() for batch in stream.epoch(1, start=2)] == [[4]]
    assert len(stream) == 3
    assert next(stream.epoch(1)).images.numel() == 0
    assert [tuple(part.shape) for part in impressions(torch.tensor([4]))] == [(1, 1, 2, 2), (1, 3)]


class Reversed(nn.Module):
    """A net whose last linear layer is not the last thing it does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(144, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -self.fc(images.flatten(1))


def test_logits_that_bypass_the_last_linear_layer_are_refused(out: Path) -> None:
    exp, _ = prepared(out)
    assert exp.classifier(exp.teacher, "teacher").weight.shape == (10, 16)
    with pytest.raises(ConfigError, match=r"^teacher: its logits do not come from its last linear layer; this method"):
        exp.classifier(replace(exp.teacher, model=Tapped(Reversed())), "teacher")


def test_less_than_one_impression_a_class_is_refused(out: Path) -> None:
    exp, method = prepared(out, "method.count=9")
    with pytest.raises(ConfigError, match=r"method\.count: 9 is less than one"):
        next(method.stages(exp))


def test_a_resume_reuses_impressions_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    words = [*SMALL, "dataset=synthetic", "dataset.train_count=90", "dataset.test_count=30", "teacher=mlp_16"]
    words += [
        "student=mlp_16",
        "epochs=2",
        "teacher.recipe.epochs=1",
        "device=cpu",
        "baseline=false",
        f"out={tmp_path}",
    ]
    folder = tmp_path / "run"
    summary = run(compose(words), folder, words)
    expected = (folder / "student.safetensors").read_bytes()
    assert {path.name for path in (folder / "figures").iterdir()} >= {"similarity.png", "impressions.png"}
    assert set(summary["method_metrics"]) >= {"impressions_of_their_class", "impressions_kl"}

    stage = (folder / "stages" / "01-impressions0.pt").read_bytes()
    for path in [*folder.glob("stages/*distill*"), *folder.glob("stages/*impressions2*")]:
        path.unlink()
    run(compose(words), folder, words)
    assert (folder / "stages" / "01-impressions0.pt").read_bytes() == stage
    assert (folder / "student.safetensors").read_bytes() == expected


def test_the_metrics_compare_both_models_on_the_impressions(out: Path) -> None:
    exp, method, _ = followed(out, "student=mlp_30", "method.temperature=5")
    images, targets = (
        torch.cat([each.images() for each in method.sets]),
        torch.cat([each.targets for each in method.sets]),
    )
    with torch.no_grad():
        teacher, student = (net(images).logits.double().numpy() for net in (exp.teacher, exp.student.eval()))
    log = teacher / 5 - np.log(np.exp(teacher / 5).sum(1, keepdims=True))
    wanted = targets.double().numpy()
    distances = np.where(wanted > 0, wanted * (np.log(np.where(wanted > 0, wanted, 1)) - log), 0).sum(1)
    of_class, followed_by = teacher.argmax(1) == np.repeat(range(10), 6), teacher.argmax(1) == student.argmax(1)
    assert 0 < of_class.mean() < 1 and of_class.mean() != (student.argmax(1) == np.repeat(range(10), 6)).mean()
    assert method.metrics(exp) == {
        "impressions_of_their_class": pytest.approx(of_class.mean()),
        "agreement_on_impressions": pytest.approx(followed_by.mean()),
        "impressions_kl": pytest.approx(distances.mean(), rel=1e-4),
    }


def test_the_figures_have_titles_names_and_units(out: Path) -> None:
    exp, method, _ = followed(out)
    figures: dict[str, Any] = dict(method.figures(exp))
    heat = figures["similarity"].axes
    assert (heat[0].get_xlabel(), heat[0].get_ylabel(), heat[1].get_ylabel()) == (
        "class",
        "class",
        "cosine of last-layer weights",
    )
    np.testing.assert_allclose(heat[0].images[0].get_array(), method.similarity.numpy())
    sheet = figures["impressions"].axes[0]
    assert (sheet.get_title(), sheet.get_ylabel()) == ("mlp_16: synthesized impressions", "class")
    assert [label.get_text() for label in sheet.get_yticklabels()] == exp.data.source.names
    assert sheet.images[0].get_array().shape == (10 * (12 + 2), 6 * (12 + 2))


def test_the_grid_shows_each_image_in_its_place() -> None:
    images = [torch.rand(count, 3, 4, 4) for count in (2, 1)]
    sheet = grid(images, ["a", "b"], "title").axes[0].images[0].get_array()
    assert np.allclose(sheet[0:4, 6:10], images[0][1].permute(1, 2, 0), atol=1e-6)
    assert np.allclose(sheet[6:10, 0:4], images[1][0].permute(1, 2, 0), atol=1e-6)
    assert (sheet[6:, 6:] == 1).all()
