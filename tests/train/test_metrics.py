from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny import Batches
from torch import Tensor

from kdrun.data.cityscapes import COLOURS
from kdrun.data.label_maps import label_map_scores
from kdrun.train.metrics import (
    TASKS,
    Score,
    agreement,
    beside_teacher,
    calibration_error,
    called,
    confusion,
    measure,
    predict,
)
from kdrun.train.stage import Outputs


def guesses(count: int = 200, classes: int = 7, sharp: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = sharp * torch.randn(count, classes, generator=generator)
    return logits, torch.randint(classes, (count,), generator=generator)


def softmax(logits: Tensor) -> np.ndarray:
    powers = np.exp(logits.double().numpy())
    return powers / powers.sum(1, keepdims=True)


def test_top1_is_a_part_of_one_and_the_loss_is_in_nats() -> None:
    logits, targets = guesses()
    right = [row.argmax() == target for row, target in zip(logits.numpy(), targets.numpy(), strict=True)]
    nats = [-np.log(row[target]) for row, target in zip(softmax(logits), targets.numpy(), strict=True)]
    scores = measure("classification", logits, targets)
    assert scores == {"top1": pytest.approx(np.mean(right)), "loss": pytest.approx(np.mean(nats), rel=1e-5)}


def test_a_model_that_knows_no_class_has_the_loss_of_a_coin() -> None:
    assert measure("classification", torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))["loss"] == pytest.approx(np.log(2))


@pytest.mark.parametrize("sharp", [0.2, 3.0])
def test_the_calibration_error_is_the_gap_in_fifteen_bins(sharp: float) -> None:
    logits, targets = guesses(sharp=sharp)
    probabilities = softmax(logits)
    modest = torch.from_numpy(probabilities.max(1)) < np.median(probabilities.max(1))
    targets = targets.where(~modest, logits.argmax(1))  # right where it is least sure: gaps of both signs
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets.numpy()
    expected = 0.0
    for place in range(15):
        inside = (confidence > place / 15) & (confidence <= (place + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(logits, targets) == pytest.approx(expected, abs=1e-5)


def certain() -> tuple[Tensor, Tensor]:
    """A thousand guesses of ten classes, a third of them sure to the last bit, and some of those wrong."""
    logits = 25 * torch.randn(1000, 10, generator=torch.Generator().manual_seed(3))
    first, second = logits.topk(2).indices.T
    return logits, first.where((logits.softmax(1).amax(1) < 1) | (torch.arange(1000) % 3 > 0), second)


def test_certainty_has_a_bin_of_its_own() -> None:
    logits, targets = certain()
    confidence = logits.softmax(1).amax(1).numpy()
    right = (logits.argmax(1) == targets).numpy()
    edges = [*(np.arange(15, dtype=np.float32) / np.float32(15)), 1.0, 2.0]
    expected = 0.0
    for low, high in itertools.pairwise(edges):
        inside = (confidence >= low) & (confidence < high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].astype(float).mean())
    assert 100 < (confidence == 1).sum() < 900
    assert calibration_error(logits, targets) == pytest.approx(expected, abs=1e-7)


def test_the_calibration_error_is_that_of_torchmetrics() -> None:
    # multiclass_calibration_error(logits.softmax(1), targets, num_classes=10, n_bins=15) of torchmetrics 1.9.0
    assert calibration_error(*certain()) == pytest.approx(0.1545278, abs=1e-6)


def test_a_model_always_certain_and_right_is_calibrated() -> None:
    targets = torch.tensor([0, 2, 1])
    assert calibration_error(100 * torch.eye(3)[targets], targets) == pytest.approx(0, abs=1e-6)


def test_a_row_of_the_confusion_is_a_true_class() -> None:
    logits, targets = guesses()
    counts = np.zeros((7, 7), dtype=int)
    for row, target in zip(logits.numpy(), targets.numpy(), strict=True):
        counts[target, row.argmax()] += 1
    assert confusion(logits.argmax(1), targets, 7).tolist() == counts.tolist()


def test_absent_classes_have_their_place_in_the_confusion() -> None:
    assert confusion(torch.tensor([1]), torch.tensor([0]), 3).tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_models_agree_where_they_predict_the_same_class() -> None:
    one, other = (guesses()[0], guesses()[0].flip(1))
    expected = np.mean(one.numpy().argmax(1) == other.numpy().argmax(1))
    assert agreement(one.argmax(1), other.argmax(1)) == pytest.approx(expected)
    assert agreement(one.argmax(1), one.argmax(1)) == 1


def test_a_student_is_scored_by_teacher_right_and_teacher_wrong() -> None:
    (student, targets), teacher = guesses(), guesses()[0].roll(1, 0)
    pairs = zip(student.numpy().argmax(1), teacher.numpy().argmax(1), targets.numpy(), strict=True)
    right, wrong = [], []
    for one, other, target in pairs:
        (right if other == target else wrong).append(one == target)
    scores = beside_teacher(student.argmax(1), teacher.argmax(1), targets)
    assert scores == {
        "top1_teacher_right": pytest.approx(np.mean(right)),
        "top1_teacher_wrong": pytest.approx(np.mean(wrong)),
    }


def test_a_perfect_teacher_leaves_no_scores_on_its_errors() -> None:
    predicted = torch.arange(3)
    assert beside_teacher(predicted, predicted, predicted) == {"top1_teacher_right": 1.0}


def test_psnr_and_l1_are_of_pixels_from_0_to_1() -> None:
    generator = torch.Generator().manual_seed(0)
    images, wanted = torch.rand(2, 4, 3, 5, 5, generator=generator)
    difference = images.double().numpy() - wanted.double().numpy()
    scores = measure("translation", images, wanted)
    assert scores["psnr_db"] == pytest.approx(10 * np.log10(1 / (difference**2).mean()), rel=1e-5)
    assert scores["l1"] == pytest.approx(np.abs(difference).mean(), rel=1e-5)


def test_an_image_that_is_off_by_a_tenth_everywhere_has_20_db() -> None:
    image = torch.full((1, 3, 4, 4), 0.5)
    assert measure("translation", image + 0.1, image)["psnr_db"] == pytest.approx(20, abs=1e-4)


def test_the_classes_of_cityscapes_have_their_official_colours() -> None:
    official = {
        "road": (128, 64, 128),
        "sidewalk": (244, 35, 232),
        "sky": (70, 130, 180),
        "car": (0, 0, 142),
        "vegetation": (107, 142, 35),
        "person": (220, 20, 60),
    }
    assert {name: COLOURS[name] for name in official} == official


def test_a_blurred_fence_is_scored_and_a_rail_track_is_not() -> None:
    blurred_fence, rail_track = (190 - 39, 153, 153), (230, 150, 140)
    wanted = torch.tensor([[(190, 153, 153), blurred_fence, rail_track]]).permute(2, 0, 1)[None] / 255
    images = torch.tensor([[(190, 153, 153), (0, 0, 142), (0, 0, 142)]]).permute(2, 0, 1)[None] / 255
    palette, names = [COLOURS["fence"], COLOURS["car"]], ["fence", "car"]
    assert label_map_scores(images, wanted, palette, names)["recall/fence"] == 0.5


def test_predictions_are_in_order_in_fp32_and_without_gradients() -> None:
    images = torch.randn(3, 4, 5, requires_grad=True)
    stream = Batches([(batch, torch.arange(4) + 4 * place) for place, batch in enumerate(images)])
    logits, targets = predict(lambda batch: Outputs((batch * 2).bfloat16(), []), stream.epoch(1))
    assert targets.tolist() == list(range(12))
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    torch.testing.assert_close(logits, (images * 2).detach().flatten(0, 1), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("score", "value", "spread", "text"),
    [
        (Score("top1", percent=True), 0.98765, None, "98.77 %"),
        (Score("top1", percent=True), 0.5, 0.0123, "50.00 ± 1.23 %"),
        (Score("loss"), 1.23456, None, "1.2346"),
        (Score("loss"), 1.5, 0.25, "1.5000 ± 0.2500"),
    ],
)
def test_a_score_is_printed_with_its_unit_and_spread(
    score: Score, value: float, spread: float | None, text: str
) -> None:
    assert score.text(value, spread) == text


@pytest.mark.parametrize(("value", "text"), [(0.012, "+1.20 pp"), (-0.012, "-1.20 pp"), (0.0, "+0.00 pp")])
def test_a_difference_shows_its_sign(value: float, text: str) -> None:
    assert Score("top1", percent=True).text(value, sign=True) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("top1", "25.00 %"),
        ("classifier1/top1", "25.00 %"),
        ("top1_teacher_wrong", "25.00 %"),
        ("y_to_x/psnr_db", "0.2500"),
        ("top10", "0.2500"),
        ("top1/gap", "0.2500"),
    ],
)
def test_a_metric_is_printed_like_the_score_in_its_name(name: str, text: str) -> None:
    assert called(name).text(0.25) == text


def test_the_first_score_of_a_task_selects_the_right_direction() -> None:
    assert {task: scores[0].select for task, scores in TASKS.items()} == {
        "classification": "top1",
        "translation": "psnr_db",
    }
    assert Score("loss", more_is_better=False).select == "-loss"


@pytest.mark.parametrize("task", TASKS)
def test_what_is_measured_is_what_the_tables_show(task: str) -> None:
    inputs = guesses() if task == "classification" else (torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4))
    assert list(measure(task, *inputs)) == [score.name for score in TASKS[task]]
