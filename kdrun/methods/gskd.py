"""A growing student: each larger one learns from the teacher and from its smaller predecessor."""

from __future__ import annotations

from typing import Annotated, Any

import torch

from kdrun.config.nodes import Node
from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Method, Scores, Stage, Stages, Terms, changed, tested
from kdrun.methods.kd import Reduction, soft_loss


class GSKD(Method):
    """A chain of students from the smallest up, the run's own last.

    Lee and Paik, "Improved structure for knowledge distillation" (a proposal), section "Growing student". The smallest
    is taught by the base method; each later one goes down the base's loss and, beside it,
        previous_weight [T^2 KL(previous student || student) - CE(labels, student)],
    so that with KD of weights 1 - l and l as the base it is their (1 - l - g) CE + l T^2 KL(teacher || student)
    + g T^2 KL(previous || student). Teacher and predecessor are frozen. No weight g: each is the base method's, to the
    last bit. Each student of the chain is a trained model of its own, by the run's recipe, data and seed.

    Args:
        base: the method between teacher and student, any with a ``ce_weight``.
        students: the students before the run's own, from the smallest to the largest.
        previous_weight: their gamma, taken from the base's ``ce_weight``.
        temperature: T of the previous student's soft targets.
        reduction: of the previous student's soft targets, see ``soft_loss``.
        new_teacher: a model as large as the teacher, which grows at the end of the chain and takes the teacher's
            place; the chain then begins anew under it. None: the teacher stays.
    """

    def __init__(
        self,
        base: dict[str, Any],
        students: list[dict[str, Any]],
        previous_weight: Annotated[float, "[0, 1]"] = 0.05,
        temperature: Annotated[float, "(0, 1000]"] = 3.0,
        reduction: Reduction = "batchmean",
        new_teacher: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.base, self.students, self.new_teacher = base, students, new_teacher
        self.previous_weight, self.temperature = previous_weight, temperature
        self.reduction: Reduction = reduction

    def stages(self, exp: Experiment) -> Stages:
        exp = self.promoted(exp)
        if not self.students:
            yield from exp.method(self.base).stages(exp)
            return
        previous = self.grown(exp)[-1]
        if size(previous.model) > size(exp.student):
            sizes = f"{previous.name} has {size(previous.model):,} parameters, the next student {size(exp.student):,}"
            raise ConfigError("method.students", f"{sizes}; a growing chain goes from small to large")
        said: dict[str, torch.Tensor] = {}
        listening = exp.student.register_forward_hook(lambda module, args, outputs: said.update(logits=outputs.logits))
        base = exp.method(lessened(self.base, self.previous_weight))
        yield from changed(base.stages(exp), exp, lambda stage: self.add_previous(stage, previous, said))
        listening.remove()

    def add_previous(self, stage: Stage, previous: Trained, said: dict[str, torch.Tensor]) -> None:
        """Adds the previous student's soft targets to the loss of ``stage``, for the logits last ``said``."""
        first, own = stage.updates[0], stage.updates[0].loss

        def loss(batch: Batch, given: Any) -> Terms:
            terms = own(batch, given)
            with torch.no_grad():
                older = previous(batch.images).logits
            apart = soft_loss(said.pop("logits"), older, self.temperature, reduction=self.reduction)
            return {**terms, "previous": self.previous_weight * self.temperature**2 * apart}

        if self.previous_weight:
            first.loss = loss

    def grown(self, exp: Experiment) -> list[Trained]:
        """Returns the students before the run's own under the teacher of ``exp``, from the smallest to the largest."""
        numbered = enumerate(self.students)
        return [exp.trained(node, self.chain(self.students[:place]), exp.teacher, exp.plan) for place, node in numbered]

    def chain(self, students: list[Node]) -> Node:
        """Returns the node of the method that trains the student after ``students``."""
        if not students:
            return self.base
        return {
            "name": "gskd",
            "_target_": f"{type(self).__module__}.{type(self).__name__}",
            "base": self.base,
            "students": students,
            "previous_weight": self.previous_weight,
            "temperature": self.temperature,
            "reduction": self.reduction,
            "new_teacher": None,
        }

    def promoted(self, exp: Experiment) -> Experiment:
        """Returns ``exp`` under the new teacher, where there shall be one."""
        if self.new_teacher is None:
            return exp
        self.grown(exp)  # asked for one by one, as a link asks for what it needs: all are costs of this run
        return exp.taught_by(exp.trained(self.new_teacher, self.chain(self.students), exp.teacher, exp.plan))

    def findings(self, exp: Experiment) -> Scores:
        """Returns the test scores of all students on the way; under a new teacher, of both ways and teachers."""
        if self.new_teacher is None:
            return tested(exp, self.grown(exp))
        under_new, name = self.promoted(exp), exp.main.name
        assert exp.teacher is not None and under_new.teacher is not None
        new, old = (exp.scores(teacher.model, "test")[name] for teacher in (under_new.teacher, exp.teacher))
        compared = {f"old_teacher/{name}": old, f"new_teacher/{name}": new, f"new_teacher/{name}_gain": new - old}
        return {**compared, **tested(exp, [*self.grown(exp), under_new.teacher, *self.grown(under_new)])}


def size(model: torch.nn.Module) -> int:
    """Returns how many parameters ``model`` has."""
    return sum(parameter.numel() for parameter in model.parameters())


def lessened(base: Node, weight: float, where: str = "method.base") -> Node:
    """Returns ``base``, or the innermost base of a method around others, with ``weight`` less on the labels.

    Raises:
        ConfigError: if it has not that much on them.
    """
    if "base" in base:
        return {**base, "base": lessened(base["base"], weight, f"{where}.base")}
    if base.get("ce_weight", -1.0) < weight:
        has = f"is {base['ce_weight']:g}" if "ce_weight" in base else "does not exist"
        raise ConfigError("method.previous_weight", f"{weight:g} is taken from {where}.ce_weight, which {has}")
    return {**base, "ce_weight": base["ce_weight"] - weight}
