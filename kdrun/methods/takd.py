"""Teacher assistants: models of intermediate size bridge a large gap between teacher and student."""

from __future__ import annotations

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.methods.arguments import MethodNode, ModelNode
from kdrun.methods.base import Method, Scores, Stages, chain_scores


class TAKD(Method):
    """A chain of trained models, each taught by the one before; the student is the last.

    Mirzadeh et al. 2020, arXiv:1902.03393, section "Teacher assistant knowledge distillation". Each link is a trained
    model of its own, with the teacher's recipe and seed; it is trained once and used by every run with the same chain.
    With an empty chain, this is the base method.
    """

    base: MethodNode
    """Method of every link; any method that trains one student."""
    assistants: list[ModelNode]
    """Models between teacher and student, from the largest to the smallest."""

    def stages(self, exp: Experiment) -> Stages:
        yield from exp.method(self.base).stages(exp.taught_by(self.chain(exp)[-1]))

    def chain(self, exp: Experiment) -> list[Trained]:
        """Returns the chain without the student; the teacher is the first."""
        chain = [exp.teacher]
        for assistant in self.assistants:
            chain.append(exp.trained(assistant, self.base, chain[-1]))
        return chain

    def metrics(self, exp: Experiment) -> Scores:
        """Returns the test score of each assistant."""
        return chain_scores(exp, self.chain(exp)[1:])
