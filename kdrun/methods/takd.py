"""Teacher assistants: a large gap in size is bridged by models in between."""

from __future__ import annotations

from typing import Any

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.methods.base import Method, Scores, Stages, tested


class TAKD(Method):
    """A chain of trained models, each taught by the one before, the student last.

    Mirzadeh et al. 2020, arXiv:1902.03393, section "Teacher assistant knowledge distillation". Each link is a trained
    model of its own, by the teacher's recipe and seed; it is trained once and serves every run with the same chain.
    An empty chain is the base method.

    Args:
        base: the method of every link, any that trains one student.
        assistants: the models in between, from the largest to the smallest.
    """

    def __init__(self, base: dict[str, Any], assistants: list[dict[str, Any]]) -> None:
        super().__init__()
        self.base, self.assistants = base, assistants

    def stages(self, exp: Experiment) -> Stages:
        teacher = self.links(exp)[-1]
        yield from exp.method(self.base).stages(exp.taught_by(teacher))

    def links(self, exp: Experiment) -> list[Trained]:
        """Returns the chain without the student: the teacher first."""
        assert exp.teacher is not None
        chain = [exp.teacher]
        for assistant in self.assistants:
            chain.append(exp.trained(assistant, self.base, chain[-1]))
        return chain

    def findings(self, exp: Experiment) -> Scores:
        """Returns the test score of each assistant."""
        return tested(exp, self.links(exp)[1:])
