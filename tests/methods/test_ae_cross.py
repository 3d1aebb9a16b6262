"""The coupled auto-encoders of report 3, and translation without a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Memory, config, copied, experiment, same
from torch import Tensor

from kdrun.core.experiment import Experiment
from kdrun.data.label_maps import closest, label_map_scores
from kdrun.errors import ConfigError
from kdrun.methods.ae_cross import AECross, bridged
from kdrun.methods.reconstruction import distance_of
from kdrun.report.strips import recalls
from kdrun.train.loop import fit
from kdrun.train.stage import Batch, Outputs, Stage
from kdrun.train.taps import Tapped

PAIRS = (
    "dataset=synthetic_pairs",
    "dataset.size=64",
    "dataset.train_count=20",
    "dataset.test_count=6",
    "student=ae",
    "student.width=2",
    "teacher=none",
    "batch_size=4",
)


def trained(out: Path, *overrides: str) -> tuple[Experiment, AECross, Memory]:
    overrides = ("method=ae_cross", *PAIRS, *overrides)
    exp, memory = experiment(out, *overrides), Memory()
    method: Any = exp.method(config(out, *overrides)["method"])
    exp.follow(method, memory.journal)
    return exp, method, memory


def begun(out: Path, *overrides: str) -> tuple[Experiment, AECross, Stage]:
    """The method connected, its other net built, nothing trained; and its stage."""
    overrides = ("method=ae_cross", *PAIRS, *overrides)
    exp = experiment(out, *overrides)
    method: Any = exp.method(config(out, *overrides)["method"])
    return exp, method, next(method.stages(exp))


def started(out: Path, *overrides: str) -> tuple[Experiment, AECross, Batch]:
    exp, method, stage = begun(out, *overrides)
    return exp, method, next(stage.stream.epoch(1))


def pixel_distance(one: Tensor, other: Tensor) -> float:
    """The end-point error, pixel by pixel."""
    a, b = one.detach().numpy(), other.detach().numpy()
    n, _, h, w = a.shape
    lengths = [
        np.sqrt(((a[i, :, y, x] - b[i, :, y, x]) ** 2).sum()) for i in range(n) for y in range(h) for x in range(w)
    ]
    return float(np.mean(lengths))


def brighter(out: Path) -> tuple[Experiment, AECross, Stage]:
    """Nothing trained, but X to Y paints brighter: new nets paint the same grey, from which X and Y are equally far."""
    exp, method, stage = begun(out)
    for parameter in list(exp.student.parameters())[-2:]:
        torch.nn.init.constant_(parameter, 0.5)
    return exp, method, stage


def pixel_l1(net: Tapped, images: Tensor, targets: Tensor) -> float:
    """The mean absolute difference, in [0, 1], of what ``net`` makes of uint8 images and the targets."""
    with torch.no_grad():
        outputs = net.eval()(images.float() / 127.5 - 1).logits
    return float(np.abs(outputs.numpy() / 2 + 0.5 - targets.numpy() / 255).mean())


def pooled(maps: Tensor) -> Tensor:
    """The largest of each 2x2 neighbourhood: one row and one column less."""
    corners = (maps[:, :, :-1, :-1], maps[:, :, :-1, 1:], maps[:, :, 1:, :-1], maps[:, :, 1:, 1:])
    return torch.stack(corners).amax(0)


def test_the_distances_are_what_they_say() -> None:
    one, other = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    differences = (one - other).numpy()
    assert distance_of(one, other, "epe").item() == pytest.approx(pixel_distance(one, other), rel=1e-5)
    assert distance_of(one, other, "l1").item() == pytest.approx(np.abs(differences).mean(), rel=1e-5)
    assert distance_of(one, other, "l2").item() == pytest.approx((differences**2).mean(), rel=1e-5)


def test_the_end_point_error_has_a_finite_gradient_at_zero() -> None:
    output = torch.zeros(1, 3, 2, 2, requires_grad=True)
    distance_of(output, torch.zeros(1, 3, 2, 2), "epe").backward()
    assert output.grad is not None
    assert output.grad.isfinite().all()


@pytest.mark.parametrize("pairs", [[[0, 8]], [[0, 8], [1, 7]], [[1, 7]]])
def test_the_loss_is_that_of_the_report(pairs: list[list[int]], tmp_path: Path) -> None:
    exp, method, batch = started(tmp_path, f"method.pairs={pairs}".replace(" ", ""))
    there, back = exp.student(batch.images), method.back(batch.targets)
    terms = method.terms(there, back, batch)
    images = pixel_distance(there.logits, batch.targets) + pixel_distance(back.logits, batch.images)
    linked = sum(pixel_distance(there.features[i], pooled(back.features[j])) for i, j in pairs)
    assert sum(term.item() for term in terms.values()) == pytest.approx(0.8 * images + 0.2 * linked, rel=1e-4)


@pytest.mark.parametrize("form", ["l1", "l2"])
def test_images_and_maps_are_compared_by_the_chosen_distance(form: str, tmp_path: Path) -> None:
    exp, method, batch = started(tmp_path, f"method.distance={form}")
    there, back = exp.student(batch.images), method.back(batch.targets)
    terms = [term.item() for term in method.terms(there, back, batch).values()]
    pairs = ((there.logits, batch.targets), (back.logits, batch.images), (there.features[0], pooled(back.features[8])))
    differences = [(one - other).detach().numpy() for one, other in pairs]
    first, second, link = (float((np.abs(each) if form == "l1" else each**2).mean()) for each in differences)
    assert sorted(terms) == pytest.approx(sorted([0.8 * first, 0.8 * second, 0.2 * link]), rel=1e-4)


def test_both_bridges_give_the_encoders_shape(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=ae_cross", *PAIRS)
    shapes = exp.shapes(exp.student)
    assert [shapes[tap][2] for tap in (0, 8, 1, 7)] == [31, 32, 15, 16]
    for encoder, decoder in ((0, 8), (1, 7)):
        for form in ("maxpool", "conv"):
            even = bridged(shapes, encoder, decoder, form)(torch.zeros(shapes[decoder]))  # type: ignore[arg-type]
            assert even.shape == shapes[encoder]


def test_a_link_sends_gradients_into_both_nets_and_the_bridge(tmp_path: Path) -> None:
    exp, method, batch = started(tmp_path, "method.bridge=conv")
    terms = method.terms(exp.student(batch.images), method.back(batch.targets), batch)
    terms["link"].backward()
    assert exp.student.model.enc1[0].weight.grad.abs().sum() > 0  # type: ignore[index,union-attr]
    assert method.back.model.dec4[0].weight.grad.abs().sum() > 0  # type: ignore[index,union-attr]
    assert exp.student.model.dec4[0].weight.grad is None  # type: ignore[index,union-attr]
    assert all(parameter.grad is not None for parameter in method.bridges.parameters())


def test_symmetric_pairs_lead_the_other_way_too(tmp_path: Path) -> None:
    exp, method, batch = started(tmp_path, "method.symmetric=true")
    there, back = exp.student(batch.images), method.back(batch.targets)
    first = pixel_distance(there.features[0], pooled(back.features[8]))
    second = pixel_distance(back.features[0], pooled(there.features[8]))
    assert method.terms(there, back, batch)["link"].item() == pytest.approx(0.2 * (first + second), rel=1e-4)


def test_a_link_of_no_weight_is_no_link_to_the_last_bit(tmp_path: Path) -> None:
    weights = ("method.image_weight=1.0", "method.link_weight=0.0")
    one, one_method, _ = trained(tmp_path, "method.pairs=[]", *weights)
    other, other_method, _ = trained(tmp_path, "method.pairs=[[0,8]]", *weights)
    assert same(copied(one.student), copied(other.student))
    assert same(copied(one_method), copied(other_method))


def test_without_a_link_the_student_is_the_baseline_bit_for_bit(tmp_path: Path) -> None:
    exp, _, _ = trained(tmp_path, "method.pairs=[]", "method.image_weight=1.0", "method.link_weight=0.0")
    baseline = exp.trained(exp.student_node, None, None, exp.plan)
    assert same(copied(exp.student), copied(baseline.model))


def test_a_link_changes_both_nets(tmp_path: Path) -> None:
    free = trained(tmp_path, "method.pairs=[]")
    linked = trained(tmp_path)
    assert not same(copied(free[0].student), copied(linked[0].student))
    assert not same(copied(free[1].back), copied(linked[1].back))


def test_the_two_nets_begin_unlike_and_the_bridge_is_trained(tmp_path: Path) -> None:
    exp, method, stage = begun(tmp_path, "method.bridge=conv")
    assert not torch.equal(exp.student.model.enc1[0].weight, method.back.model.enc1[0].weight)  # type: ignore[index,union-attr]
    before, memory = copied(method.bridges), Memory()
    fit(stage, exp.recipe, exp.runtime, memory)
    assert not same(before, copied(method.bridges))
    assert memory.rows[-1]["loss/link"] < 10


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("[[0,10]]", r"^method.pairs: \[0, 10\]: the student has taps 0 to 9$"),
        (
            "[[8,0]]",
            r"^method.pairs: \[8, 0\]: maxpool does not make 2x32x32 of 2x31x31; link maps of nearly the same size$",
        ),
        ("[[1,8]]", r"^method.pairs: \[1, 8\]: maxpool does not make 4x15x15 of 2x32x32; link maps of nearly"),
    ],
)
def test_a_link_that_cannot_be_is_refused_in_one_line(pairs: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        started(tmp_path, f"method.pairs={pairs}")


def test_both_directions_are_measured_on_pixels_and_plotted(tmp_path: Path) -> None:
    exp, method, _ = trained(tmp_path)
    metrics = method.metrics(exp)
    _, targets = exp.data.test
    wanted = targets.numpy() / 255
    with torch.no_grad():
        outputs = (
            exp.student.eval()(torch.cat([batch.images for batch in exp.batches("test")])).logits.numpy() / 2 + 0.5
        )
    assert metrics["x_to_y/l1"] == pytest.approx(np.abs(outputs - wanted).mean(), rel=1e-4)
    mean = exp.data.train.targets.float().mean(0).numpy() / 255
    assert metrics["x_to_y/mean_image_l1"] == pytest.approx(np.abs(mean - wanted).mean(), rel=1e-4)
    assert {"y_to_x/psnr_db", "y_to_x/epe", "x_to_y/miou"} <= set(metrics)
    figures = dict(method.figures(exp))
    assert list(figures) == ["strips X to Y", "strips Y to X", "recall by colour"]
    first = figures["strips X to Y"].axes
    assert [axes.get_title() for axes in first[:3]] == ["prediction", "X", "Y"]
    assert len(first) == 12
    np.testing.assert_allclose(first[2].images[0].get_array(), np.moveaxis(wanted[0], 0, 2), atol=1e-6)
    np.testing.assert_allclose(first[0].images[0].get_array(), np.moveaxis(outputs[0], 0, 2).clip(0, 1), atol=1e-5)


def test_each_class_that_occurs_has_its_recall_as_a_coloured_bar() -> None:
    colours = {"road": (128, 64, 128), "sky": (70, 130, 180), "car": (0, 0, 142)}
    scores = {"recall/road": 0.25, "recall/car": 1.0, "pixel_accuracy": 0.5, "miou": 0.4}
    bars: Any = recalls(scores, colours).axes[0].patches
    assert [bar.get_height() for bar in bars] == [0.25, 1.0]
    shades = [[255 * part for part in bar.get_facecolor()[:3]] for bar in bars]
    assert shades == [pytest.approx(colours[name]) for name in ("road", "car")]


def test_each_net_is_scored_on_the_validation_split_only(tmp_path: Path) -> None:
    exp, method, stage = brighter(tmp_path)
    assert stage.evaluate is not None
    scores, (images, targets) = stage.evaluate(), exp.data.val
    assert scores["l1"] == pytest.approx(pixel_l1(exp.student, images, targets), rel=1e-4)
    assert scores["y_to_x/l1"] == pytest.approx(pixel_l1(method.back, targets, images), rel=1e-4)


def test_y_to_x_scores_the_other_net_and_the_mean_training_image(tmp_path: Path) -> None:
    exp, method, _ = brighter(tmp_path)
    metrics, (images, targets) = method.metrics(exp), exp.data.test
    assert metrics["y_to_x/l1"] == pytest.approx(pixel_l1(method.back, targets, images), rel=1e-4)
    mean = exp.data.train.images.numpy().mean(0)
    expected = np.abs(images.numpy() - mean).mean() / 255
    assert metrics["y_to_x/mean_image_l1"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("from_labels", "painted", "other"), [(True, "y_to_x", "x_to_y"), (False, "x_to_y", "y_to_x")])
def test_only_the_direction_that_paints_label_maps_has_miou(
    from_labels: bool, painted: str, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exp, method, _ = begun(tmp_path)
    monkeypatch.setattr(type(exp.data.source), "from_labels", from_labels)
    metrics = method.metrics(exp)
    assert f"{painted}/miou" in metrics
    assert f"{other}/miou" not in metrics


def test_every_pixel_counts_as_the_class_of_the_closest_colour() -> None:
    palette = ((128, 64, 128), (244, 35, 232), (0, 0, 142))
    truth = torch.tensor([[0, 0, 1], [1, 2, 2]])
    colours = torch.tensor(palette) / 255
    wanted = colours[truth].permute(2, 0, 1)[None].clone()
    painted = wanted + 0.02
    painted[0, :, 1, 0] = colours[0]  # one pixel of class 1 painted as class 0
    assert closest(painted, palette)[0].tolist() == [[[0, 0, 1], [0, 2, 2]]]
    scores = label_map_scores(painted, wanted, palette, ["road", "sidewalk", "car"])
    assert scores["pixel_accuracy"] == pytest.approx(5 / 6)
    assert scores["recall/sidewalk"] == 0.5
    assert scores["miou"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)


def test_what_is_no_class_and_what_does_not_occur_is_left_out() -> None:
    palette = ((128, 64, 128), (244, 35, 232))
    wanted = torch.zeros(1, 3, 1, 2)
    wanted[0, :, 0, 1] = torch.tensor(palette[0]) / 255
    scores = label_map_scores(wanted, wanted, palette, ["road", "sidewalk"])  # the first pixel is black: unlabelled
    assert scores == {"pixel_accuracy": 1.0, "miou": 1.0, "recall/road": 1.0}


def test_a_tanh_cannot_reach_pink_under_the_asrun_normalization(compose: Any) -> None:
    from kdrun.data.cityscapes import COLOURS

    names, palette = list(COLOURS), list(COLOURS.values())
    for experiment_name, reached in (("ae_exp1_asrun", 0), ("ae_exp1_cityscapes", 1)):
        data = compose(f"experiment={experiment_name}")["dataset"]
        mean, std = (torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        wanted = (torch.tensor(palette) / 255).T[None, :, None]
        best = ((wanted - mean) / std).clamp(-1, 1) * std + mean  # what a tanh comes closest with
        assert label_map_scores(best, wanted, palette, names)["recall/sidewalk"] == reached


def test_the_experiments_say_which_maps_are_linked_and_how(compose: Any) -> None:
    def linked(name: str) -> tuple[Any, ...]:
        node = compose(f"experiment={name}")["method"]
        return node["pairs"], node["bridge"], node["link_weight"]

    assert linked("ae_exp0_cityscapes") == ([], "maxpool", 0.0)
    assert linked("ae_exp1_cityscapes") == linked("ae_exp1_asrun") == ([[0, 8]], "maxpool", 0.2)
    assert linked("ae_exp2_cityscapes") == ([[0, 8], [1, 7]], "maxpool", 0.2)
    assert linked("ae_exp2_only23_cityscapes") == ([[1, 7]], "maxpool", 0.2)
    assert linked("ae_exp3_cityscapes") == ([[0, 8]], "conv", 0.2)


def test_a_baseline_translator_learns_the_distance_to_its_target(tmp_path: Path) -> None:
    exp = experiment(tmp_path, "method=reconstruction", *PAIRS)
    method = exp.method(config(tmp_path, "method=reconstruction", *PAIRS)["method"])
    batch = next(exp.batches("val"))
    output = exp.student(batch.images).logits
    terms = method.loss(Outputs(output, []), batch)
    assert {name: term.item() for name, term in terms.items()} == {
        "epe": pytest.approx(pixel_distance(output, batch.targets), rel=1e-4)
    }
