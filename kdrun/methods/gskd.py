"""A growing student: each larger one learns from the teacher and from its smaller predecessor."""

from __future__ import annotations

from typing import Annotated

import torch

from kdrun.config.nodes import Node
from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.errors import ConfigError
from kdrun.methods.arguments import MethodNode, ModelNode, Temperature
from kdrun.methods.base import Method, Scores, Stage, Stages, Step, Terms, adapted, chain_scores
from kdrun.methods.kd import Reduction, soft_loss


class GSKD(Method):
    """A chain of students, from the smallest to the largest; the run's own student is the last.

    Lee and Paik, "Improved structure for knowledge distillation" (a proposal), section "Growing student". The smallest
    is taught by the base method; each later one minimizes the base's loss and, in addition,
        previous_weight [T^2 KL(previous student || student) - CE(labels, student)],
    so that with KD of weights 1 - l and l as the base, the loss is their (1 - l - g) CE + l T^2 KL(teacher || student)
    + g T^2 KL(previous || student). Teacher and predecessor are frozen. If g is 0, each student is that of the base
    method, to the last bit. Each student of the chain is a trained model of its own, with the run's recipe, data and
    seed.
    """

    base: MethodNode
    """Method between teacher and student; any method with a ``ce_weight``."""
    students: list[ModelNode]
    """Students before the run's own, from the smallest to the largest."""
    previous_weight: Annotated[float, "[0, 1]"] = 0.05
    """Weight of the previous student's soft targets, their gamma; it is subtracted from the base's ``ce_weight``."""
    temperature: Temperature = 3.0
    """Temperature T of the previous student's soft targets."""
    reduction: Reduction = "batchmean"
    """Reduction of the previous student's soft targets, see ``soft_loss``."""
    new_teacher: ModelNode | None = None
    """Model as large as the teacher. It is trained at the end of the chain and replaces the teacher; the chain then
    starts again with it. If None, the teacher stays."""

    def stages(self, exp: Experiment) -> Stages:
        exp = self.under_new_teacher(exp)
        if not self.students:
            yield from exp.method(self.base).stages(exp)
            return
        previous = self.chain(exp)[-1]
        if size(previous.model) > size(exp.student):
            sizes = f"{previous.name} has {size(previous.model):,} parameters, the next student {size(exp.student):,}"
            raise ConfigError("method.students", f"{sizes}; a growing chain goes from small to large")
        base = exp.method(with_less_ce(self.base, self.previous_weight))
        yield from adapted(base.stages(exp), exp, lambda stage: self.add_previous(exp, stage, previous))

    def add_previous(self, exp: Experiment, stage: Stage, previous: Trained) -> None:
        """Adds the previous student's soft targets to the loss of ``stage``."""
        base = stage.updates[0].loss

        def loss(step: Step) -> Terms:
            terms = base(step)  # first: gradients add up in the order of the terms, which decides the last bits
            student, older = step(exp.student).logits, step(previous).logits
            distance = soft_loss(student, older, self.temperature, reduction=self.reduction)
            return {**terms, "previous": self.previous_weight * self.temperature**2 * distance}

        if self.previous_weight:
            stage.updates[0].loss = loss

    def chain(self, exp: Experiment) -> list[Trained]:
        """Returns the students before the run's own under the teacher of ``exp``, from the smallest to the largest."""
        numbered = enumerate(self.students)
        return [exp.trained(node, self.method_after(n), exp.teacher, exp.plan) for n, node in numbered]

    def method_after(self, count: int) -> Node:
        """Returns the node of the method that trains the student after the first ``count`` students."""
        if count == 0:
            return self.base
        own = {name: getattr(self, name) for name in ("base", "previous_weight", "temperature", "reduction")}
        target = f"{type(self).__module__}.{type(self).__name__}"
        return {"name": "gskd", "_target_": target, **own, "students": self.students[:count], "new_teacher": None}

    def under_new_teacher(self, exp: Experiment) -> Experiment:
        """Returns ``exp`` with the new teacher, or ``exp`` itself if there is none."""
        if self.new_teacher is None:
            return exp
        self.chain(exp)  # trains all links in order, so that all are costs of this run
        method = self.method_after(len(self.students))
        return exp.taught_by(exp.trained(self.new_teacher, method, exp.teacher, exp.plan))

    def metrics(self, exp: Experiment) -> Scores:
        """Returns the test scores of the chain's students; with a new teacher, of both chains and both teachers."""
        if self.new_teacher is None:
            return chain_scores(exp, self.chain(exp))
        under_new, name = self.under_new_teacher(exp), exp.main.name
        new, old = (exp.scores(teacher.model, "test")[name] for teacher in (under_new.teacher, exp.teacher))
        compared = {f"old_teacher/{name}": old, f"new_teacher/{name}": new, f"new_teacher/{name}_gain": new - old}
        return {**compared, **chain_scores(exp, [*self.chain(exp), under_new.teacher, *self.chain(under_new)])}


def size(model: torch.nn.Module) -> int:
    """Returns the number of parameters of ``model``."""
    return sum(parameter.numel() for parameter in model.parameters())


def with_less_ce(base: Node, weight: float, where: str = "method.base") -> Node:
    """Returns ``base`` with its ``ce_weight``, or that of its innermost base, reduced by ``weight``.

    Raises:
        ConfigError: if there is no ``ce_weight``, or it is less than ``weight``.
    """
    if "base" in base:
        return {**base, "base": with_less_ce(base["base"], weight, f"{where}.base")}
    if base.get("ce_weight", -1.0) < weight:
        has = f"is {base['ce_weight']:g}" if "ce_weight" in base else "does not exist"
        raise ConfigError("method.previous_weight", f"{weight:g} is taken from {where}.ce_weight, which {has}")
    return {**base, "ce_weight": base["ce_weight"] - weight}
