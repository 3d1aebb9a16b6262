"""What a training costs, as its summary says it: seconds by stage, images shown to frozen models, other links."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Memory, config, experiment

from kdrun.core.experiment import Experiment
from kdrun.report.results import results
from kdrun.train.stage import Scores
from kdrun.train.taps import Tapped

TRAIN = 81  # of 90 synthetic images, nine are held back


def followed(out: Path, *overrides: str) -> tuple[Experiment, Scores]:
    exp = experiment(out, *overrides)
    return exp, exp.follow(exp.method(config(out, *overrides)["method"]), Memory().journal)


@pytest.mark.parametrize(("epochs", "asked"), [(1, TRAIN), (3, 3 * TRAIN)])
def test_kd_shows_the_teacher_every_training_image_once_an_epoch(epochs: int, asked: int, tmp_path: Path) -> None:
    _, scores = followed(tmp_path, "method=kd", f"epochs={epochs}")
    assert scores["asked"] == asked


def test_nobody_is_asked_where_nobody_teaches(tmp_path: Path) -> None:
    _, scores = followed(tmp_path, "method=scratch", "teacher=none")
    assert scores["asked"] == 0


def test_partial_forwards_and_teacher_validation_are_counted(tmp_path: Path) -> None:
    _, scores = followed(tmp_path, "method=fitnets", "method.hint_epochs=2", "epochs=3")
    assert scores["asked"] == 2 * (TRAIN + 9) + 3 * TRAIN


def test_the_seconds_are_those_of_the_stages_together(tmp_path: Path) -> None:
    _, scores = followed(tmp_path, "method=fitnets", "method.hint_epochs=2")
    assert scores["seconds"] == pytest.approx(scores["seconds/hint"] + scores["seconds/distill"])
    assert min(scores["seconds/hint"], scores["seconds/distill"]) > 0


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
    assert memory.state["asked"] == TRAIN + 32
    exp.runtime.interrupt.signum = None
    again = experiment(tmp_path, *overrides)
    rest = Memory(memory.state)
    stage = next(again.method(config(tmp_path, *overrides)["method"]).stages(again))
    assert fit(stage, again.recipe, again.runtime, rest)["asked"] == 2 * TRAIN


def test_the_summary_lists_the_chain_models_and_their_costs(tmp_path: Path) -> None:
    exp, scores = followed(tmp_path, "method=takd", "method.assistants=[mlp_32]", "teacher.recipe.epochs=2")
    found = results(exp, "mlp_16", None, scores)
    assert [link["name"] for link in found.links] == ["mlp_32"]
    assert found.links[0]["asked"] == 2 * TRAIN
    assert found.links[0]["seconds"] > 0
    assert found.models["student"]["asked"] == TRAIN


def test_a_model_counts_the_images_that_it_is_shown() -> None:
    import torch
    from torch import nn

    model = Tapped(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), ["0"])
    model(torch.zeros(3, 1, 2, 2))
    model.until(torch.zeros(2, 1, 2, 2), 0)
    assert model.asked == 5
