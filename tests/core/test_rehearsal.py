"""A rehearsal refuses what a training would do wrong, before any data is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch.nn.functional as F
from tiny import assembled, config

from kdrun.core.experiment import Experiment
from kdrun.core.rehearsal import StageSummary
from kdrun.errors import ConfigError
from kdrun.methods.base import Outputs, Stages, Step, Teacherless, Terms, Update

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
