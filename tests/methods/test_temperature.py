from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Memory, assembled, config, experiment

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.temperature import Temperature

PLACES = (1, 5, 10, 15, 20, 40, 60)
WORDS = ("method=temperature", "teacher=none", "epochs=3", "dataset.train_count=300")


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Temperature]:
    out = tmp_path_factory.mktemp("temperature")
    exp = experiment(out, *WORDS)
    method = exp.method(config(out, *WORDS)["method"])
    exp.follow(method, Memory().journal)
    assert isinstance(method, Temperature)
    return exp, method


def test_temperature_raises_entropy_and_lowers_the_maximum(
    studied: tuple[Experiment, Temperature],
) -> None:
    exp, method = studied
    metrics = method.metrics(exp)
    entropies, tops = ([metrics[f"{name}_T{place}"] for place in PLACES] for name in ("entropy", "top"))
    assert entropies == sorted(set(entropies))
    assert tops == sorted(set(tops), reverse=True)
    assert entropies[-1] < np.log(10)


def test_the_most_likely_class_is_so_at_every_temperature(studied: tuple[Experiment, Temperature]) -> None:
    exp, method = studied
    assert len(set(method.probabilities(exp).argmax(1).tolist())) == 1


def test_the_probabilities_are_the_softmax_of_the_divided_logits(studied: tuple[Experiment, Temperature]) -> None:
    exp, method = studied
    place = method.sample(exp)
    logits = exp.predict(exp.student, "test")[0][place].double().numpy()
    for temperature, row in zip(method.temperatures, method.probabilities(exp), strict=True):
        powers = np.exp(logits / temperature)
        assert row.numpy() == pytest.approx(powers / powers.sum(), rel=1e-4)


def test_the_printed_formula_would_not_know_its_temperature(studied: tuple[Experiment, Temperature]) -> None:
    exp, method = studied
    logits = exp.predict(exp.student, "test")[0][method.sample(exp)].double().numpy()
    printed = [(np.exp(logits) / T) / (np.exp(logits) / T).sum() for T in (1, 60)]
    assert printed[0] == pytest.approx(printed[1])
    assert method.probabilities(exp)[0].numpy() == pytest.approx(printed[0], rel=1e-4)


def test_the_image_is_the_first_of_its_class_or_the_one_indexed(studied: tuple[Experiment, Temperature]) -> None:
    exp, _ = studied
    targets = exp.data.test.targets.tolist()
    assert Temperature(sample_label=3).sample(exp) == targets.index(3)
    assert Temperature(sample_index=7).sample(exp) == 7


def test_an_image_that_is_not_there_is_refused(studied: tuple[Experiment, Temperature]) -> None:
    exp, _ = studied
    with pytest.raises(ConfigError, match=r"^method.sample_index: there are only 30 test images$"):
        Temperature(sample_index=30).sample(exp)
    with pytest.raises(ConfigError, match=r"^method.sample_label: 10 is out of range: 10 classes$"):
        next(Temperature(sample_label=10).stages(exp))


def test_a_missing_image_is_refused_before_training(tmp_path: Path) -> None:
    words = (*WORDS, "dataset.test_count=30", "method.sample_index=30")
    exp = experiment(tmp_path, *words)
    with pytest.raises(ConfigError, match=r"^method.sample_index: there are only 30 test images$"):
        next(exp.method(config(tmp_path, *words)["method"]).stages(exp))
    assert assembled(config(tmp_path, *words)).summaries()  # whose own images are two


def test_the_figure_has_the_image_and_a_line_per_temperature(studied: tuple[Experiment, Temperature]) -> None:
    exp, method = studied
    name, figure = next(method.figures(exp))
    picture, lines = figure.axes
    assert name == "temperature"
    assert [line.get_label() for line in lines.lines] == [f"T = {place}" for place in PLACES]
    assert lines.get_legend() is not None
    assert (lines.get_xlabel(), lines.get_ylabel()) == ("class", "probability")
    for line, row in zip(lines.lines, method.probabilities(exp), strict=True):
        assert np.asarray(line.get_ydata()) == pytest.approx(row.numpy())
    seen = torch.from_numpy(np.asarray(picture.images[0].get_array())).squeeze()
    torch.testing.assert_close(seen, exp.data.test.images[method.sample(exp)][0] / 255)


def test_a_study_of_no_temperature_is_refused(tmp_path: Path) -> None:
    pieces = assembled(config(tmp_path, *WORDS, "method.temperatures=[]"))
    with pytest.raises(ConfigError, match=r"^method.temperatures: is empty; there is nothing to plot$"):
        pieces.summaries()
