from __future__ import annotations

from kdrun.report.curves import curves
from kdrun.train.metrics import TASKS

MAIN = TASKS["classification"][0]
ROWS = [{"stage": "distill", "loss/ce": 1.0 / n, "loss/kd": 2.0, "val/top1": 0.1 * n, "lr/0": 9.0} for n in (1, 2, 3)]
HINT = {"stage": "hint", "loss/hint": 7.0, "val/hint": 5.0}


def test_every_model_has_a_line_of_its_loss_and_of_its_score() -> None:
    loss, score = curves({"teacher": ROWS, "student": ROWS[:2]}, MAIN, "title").axes
    for axes in (loss, score):
        assert [line.get_label() for line in axes.lines] == ["teacher", "student"]
        assert [list(line.get_xdata()) for line in axes.lines] == [[1, 2, 3], [1, 2]]
        assert axes.get_legend() is not None
    assert list(loss.lines[0].get_ydata()) == [3.0, 2.5, 1 / 3 + 2]
    assert list(score.lines[1].get_ydata()) == [10.0, 20.0]
    assert score.get_ylabel() == "validation top1 in %"


def test_stages_that_are_not_scored_by_the_task_are_left_out() -> None:
    loss, _ = curves({"student": [HINT, HINT, *ROWS]}, MAIN, "title").axes
    assert list(loss.lines[0].get_xdata()) == [1, 2, 3]


def test_other_classifiers_and_ways_have_a_line_of_their_own() -> None:
    rows = [{**row, "val/classifier1/top1": 0.05, "val/classifier1/loss": 1.0} for row in ROWS]
    loss, score = curves({"student": rows}, MAIN, "title").axes
    assert [line.get_label() for line in loss.lines] == ["student"]
    assert [line.get_label() for line in score.lines] == ["student", "student, classifier1"]
    assert list(score.lines[1].get_ydata()) == [5.0, 5.0, 5.0]


def test_a_model_whose_epochs_are_not_known_is_a_level() -> None:
    loss, score = curves({"student": ROWS}, MAIN, "title", {"teacher": 0.875}).axes
    assert [line.get_label() for line in loss.lines] == ["student"]
    assert list(score.lines[-1].get_ydata()) == [87.5, 87.5]


def test_without_rows_there_is_neither_line_nor_legend() -> None:
    assert curves({"external": []}, MAIN, "title").axes[0].lines[:] == []
    assert curves({"external": []}, MAIN, "title").axes[0].get_legend() is None


def test_the_training_loss_excludes_the_discriminators() -> None:
    rows = [{**row, "loss/discriminator/real": 50.0, "loss/discriminator/fake": 20.0} for row in ROWS]
    loss, _ = curves({"student": rows}, MAIN, "title").axes
    assert list(loss.lines[0].get_ydata()) == [3.0, 2.5, 1 / 3 + 2]


def test_one_epoch_has_one_tick() -> None:
    figure = curves({"student": ROWS[:1]}, MAIN, "title")
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]
