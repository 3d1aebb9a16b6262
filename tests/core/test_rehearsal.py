"""A rehearsal refuses what a training would do wrong, before any data is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from tiny import assembled, config

from kdrun.core.experiment import Experiment
from kdrun.core.rehearsal import StageSummary, rehearse
from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Outputs, Stages, Step, Teacherless, Terms, Update

CE = F.cross_entropy


class Rehearsed(Teacherless):
    """Two updates of the student, or of a peer, whose terms are named by an argument."""

    terms: str = "first second"
    players: str = "student student"

    def stages(self, exp: Experiment) -> Stages:
        def update(term: str, player: str, weight: float) -> Update:
            def loss(step: Step) -> Terms:
                return {term: weight * CE(step(exp.student).logits, step.batch.targets)}

            return Update(exp.student.parameters(), loss, player=player)

        updates = map(update, self.terms.split(), self.players.split(), (1.0, 9.0))
        yield exp.stage("distill", list(updates), {"student": exp.student, "peer": exp.peer("peer")})


class Mutual(Teacherless):
    """Student and peer, each towards the logits that the other gave last; ``feature`` reads a feature besides."""

    feature: bool = False

    def stages(self, exp: Experiment) -> Stages:
        peer = exp.peer("peer")

        def loss(step: Step) -> Terms:
            other: Outputs = step.latest(peer)
            distance = F.mse_loss(step(exp.student).logits, other.logits)
            return {"mse": distance + other.features[0].mean() if self.feature else distance}

        def of_peer(step: Step) -> Terms:
            return {"mse": F.mse_loss(step(peer).logits, step.latest(exp.student).logits)}

        updates = [Update(exp.student.parameters(), loss), Update(peer.parameters(), of_peer, player="peer")]
        yield exp.stage("distill", updates, {"student": exp.student, "peer": peer})


class Open(Mutual):
    """Declares the features that it reads."""

    reads = frozenset({"logits", "features"})


def rehearsed(out: Path, method: type[Teacherless], **arguments: Any) -> list[StageSummary]:
    node = {"_target_": f"{__name__}.{method.__name__}", "name": "own", **arguments}
    whole = {**config(out, "method=scratch", "teacher=none"), "method": node, "trust": [__name__]}
    return assembled(whole).summaries()


def test_terms_carry_the_name_of_another_player(tmp_path: Path) -> None:
    [stage] = rehearsed(tmp_path, Rehearsed, players="student peer", terms="ce ce")
    assert stage.terms == [["ce"], ["peer/ce"]]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"terms": "ce ce"}, "two updates of stage distill have a term 'ce'; rename one of them"),
        ({"terms": "ce peer/ce"}, "term 'peer/ce' has a slash; that separates a player's name from a term's"),
        ({"players": "student pear"}, "stage distill has no player 'pear' (has: student, peer)"),
    ],
)
def test_a_term_that_would_be_logged_wrongly_is_refused(arguments: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        rehearsed(tmp_path, Rehearsed, **arguments)
    assert str(caught.value) == f"method: cannot train mlp_16: {what}"


def test_latest_logits_read_no_features(tmp_path: Path) -> None:
    [stage] = rehearsed(tmp_path, Mutual)
    assert stage.terms == [["mse"], ["peer/mse"]]


def test_features_of_latest_outputs_need_to_be_declared(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        rehearsed(tmp_path, Mutual, feature=True)
    assert str(caught.value) == "method: Mutual reads features, which its `reads` does not declare"
    assert len(rehearsed(tmp_path, Open, feature=True)) == 1


class Weighted(Teacherless):
    """Cross-entropy with a weight; ``absent`` leaves the term out."""

    weight: float = 1.0
    absent: bool = False

    def loss(self, student: Outputs, batch: Batch) -> Terms:
        return {} if self.absent else {"ce": self.weight * CE(student.logits, batch.targets)}


@pytest.mark.parametrize(
    ("method", "what"),
    [
        (Weighted(weight=0.0), "every loss (ce) is zero"),
        (Weighted(weight=1e-46), "every loss (ce) is zero"),
        (Weighted(absent=True), "there is no loss"),
    ],
)
def test_a_stage_that_learns_from_nothing_is_refused(method: Weighted, what: str, tmp_path: Path) -> None:
    pieces = assembled(config(tmp_path, "method=scratch", "teacher=none"))
    with pytest.raises(ConfigError) as caught:
        rehearse(pieces.exp, method, "mlp_16", None)
    line = f"method: in stage distill {what}, so nothing is learned; give a weight above 0"
    assert str(caught.value) == line


@pytest.mark.parametrize("weight", [1.0, 1e-30, -1.0])
def test_a_stage_with_any_weight_is_taken(weight: float, tmp_path: Path) -> None:
    pieces = assembled(config(tmp_path, "method=scratch", "teacher=none"))
    [stage] = rehearse(pieces.exp, Weighted(weight=weight), "mlp_16", None)
    assert stage.terms == [["ce"]]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("student.hidden=[99999999999]", "student: for images of 1x12x12 its weights need more memory than there is"),
        ("dataset.size=1000000", "student: for images of 1x1000000x1000000 its weights need more memory than there is"),
        ("dataset.crop=1000000", "dataset.crop: 1000000 would crop beside an image; use at most its 12 pixels"),
        ("dataset.std=[1e-38]", "dataset.std: 1e-38 is out of range [0.0001, 1000]"),
        ("dataset.mean=[1e38]", "dataset.mean: 1e+38 is out of range [-1000, 1000]"),
    ],
)
def test_what_is_too_large_is_named_before_any_data(word: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        assembled(config(tmp_path, "method=scratch", "teacher=none", word)).summaries()
    assert str(caught.value) == line


class Wasteful(Teacherless):
    """Asks for more memory than there is."""

    def loss(self, student: Outputs, batch: Batch) -> Terms:
        return {"ce": student.logits.new_zeros(10**14).sum()}


def test_a_training_that_does_not_fit_names_its_model(tmp_path: Path) -> None:
    pieces = assembled(config(tmp_path, "method=scratch", "teacher=none"))
    with pytest.raises(ConfigError, match=r"^mlp_16: its training needs more memory than there is, even with 2 images"):
        rehearse(pieces.exp, Wasteful(), "mlp_16", None)
