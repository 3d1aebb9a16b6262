"""What a training costs, as its summary says it: seconds by stage, images that frozen models ran on, its chain."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Memory, config, experiment

from kdrun.core.experiment import Experiment
from kdrun.report.results import results
from kdrun.store.checkpoint import journals
from kdrun.store.record import Record
from kdrun.train.stage import Scores
from kdrun.train.taps import Tapped

TRAIN = 81  # of 90 synthetic images, nine are held back


def followed(out: Path, *overrides: str) -> tuple[Experiment, Scores]:
    exp = experiment(out, *overrides)
    return exp, exp.follow(exp.method(config(out, *overrides)["method"]), Memory().journal).scores


@pytest.mark.parametrize(("epochs", "teacher_images"), [(1, TRAIN), (3, 3 * TRAIN)])
def test_kd_shows_the_teacher_every_training_image_once_an_epoch(
    epochs: int, teacher_images: int, tmp_path: Path
) -> None:
    _, scores = followed(tmp_path, "method=kd", f"epochs={epochs}")
    assert scores["teacher_images"] == teacher_images


def test_without_a_teacher_no_teacher_image_is_counted(tmp_path: Path) -> None:
    _, scores = followed(tmp_path, "method=scratch", "teacher=none")
    assert scores["teacher_images"] == 0


def test_partial_forwards_and_teacher_validation_are_counted(tmp_path: Path) -> None:
    _, scores = followed(tmp_path, "method=fitnets", "method.hint_epochs=2", "epochs=3")
    assert scores["teacher_images"] == 2 * (TRAIN + 9) + 3 * TRAIN


def test_a_resumed_record_keeps_the_costs_of_its_stages(tmp_path: Path) -> None:
    overrides = ("method=fitnets", "method.hint_epochs=2", "epochs=2")
    exp, record = experiment(tmp_path, *overrides), Record(tmp_path / "run", "mlp_16 by fitnets", lambda *row: None)
    method = config(tmp_path, *overrides)["method"]
    costs = exp.follow(exp.method(method), journals(record, {})).scores
    record.close()
    again, reopened = experiment(tmp_path, *overrides), Record(tmp_path / "run", "again", lambda *row: None)
    scores = again.follow(again.method(method), journals(reopened, {})).scores
    reopened.close()
    assert scores == costs
    assert scores["teacher_images"] == 2 * (TRAIN + 9) + 2 * TRAIN
    assert scores["train_cpu_seconds"] > 0


def test_the_seconds_are_those_of_the_stages_together(tmp_path: Path) -> None:
    _, scores = followed(tmp_path, "method=fitnets", "method.hint_epochs=2")
    assert scores["train_seconds"] == pytest.approx(scores["train_seconds/hint"] + scores["train_seconds/distill"])
    assert min(scores["train_seconds/hint"], scores["train_seconds/distill"]) > 0


def test_an_interrupted_training_counts_the_same_teacher_images(tmp_path: Path) -> None:
    from kdrun.errors import Interrupted

    overrides = ("method=kd", "epochs=2")
    exp = experiment(tmp_path, *overrides)
    memory = Memory()
    memory.stop = (exp.runtime, 4)  # of six steps
    stage = next(exp.method(config(tmp_path, *overrides)["method"]).stages(exp))
    from kdrun.train.loop import fit

    with pytest.raises(Interrupted):
        fit(stage, exp.recipe, exp.runtime, memory)
    assert memory.state is not None
    assert memory.state["teacher_images"] == TRAIN + 32
    exp.runtime.interrupt.signum = None
    again = experiment(tmp_path, *overrides)
    rest = Memory(memory.state)
    stage = next(again.method(config(tmp_path, *overrides)["method"]).stages(again))
    assert fit(stage, again.recipe, again.runtime, rest)["teacher_images"] == 2 * TRAIN


def test_the_summary_lists_the_chain_models_and_their_costs(tmp_path: Path) -> None:
    exp, scores = followed(tmp_path, "method=takd", "method.assistants=[mlp_32]", "teacher.recipe.epochs=2")
    measured = results(exp, "mlp_16", exp.student, None, scores)
    assert [link["name"] for link in measured.chain] == ["mlp_32"]
    assert measured.chain[0]["teacher_images"] == 2 * TRAIN
    assert measured.chain[0]["train_seconds"] > 0
    assert measured.chain[0]["train_cpu_seconds"] > 0
    assert measured.models["student"]["train_cpu_seconds"] == scores["train_cpu_seconds"] > 0
    assert measured.models["student"]["teacher_images"] == TRAIN


def test_a_model_counts_the_images_that_it_runs_on() -> None:
    import torch
    from torch import nn

    model = Tapped(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), ["0"])
    model(torch.zeros(3, 1, 2, 2))
    model.until(torch.zeros(2, 1, 2, 2), 0)
    assert model.image_count == 5
