"""Distilling the knowledge in a neural network, in all its published forms."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.arguments import Temperature, Weight
from kdrun.methods.base import Batch, LogitMethod, Terms

Form = Literal["forward", "reverse", "cross_entropy"]
Reduction = Literal["batchmean", "mean"]


def soft_loss(
    student: Tensor, teacher: Tensor, temperature: float, form: Form = "forward", reduction: Reduction = "batchmean"
) -> Tensor:
    """Returns the distance of the student's softened logits from the teacher's, without the factor T^2.

    Args:
        student: logits (N, classes).
        teacher: logits (N, classes).
        temperature: T, which divides both.
        form: ``forward`` is KL(teacher || student); ``reverse`` is KL(student || teacher); ``cross_entropy`` is
            -sum p_teacher log p_student, which differs from forward by the teacher's entropy, a constant: the
            gradient is the same.
        reduction: ``batchmean`` sums over classes and takes the mean over the batch; ``mean`` also divides by the
            number of classes, as torch's default and therefore much published code does.
    """
    log_student, log_teacher = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    if form == "cross_entropy":
        distance = -log_teacher.exp() * log_student
    elif form == "forward":
        distance = log_teacher.exp() * (log_teacher - log_student)
    else:
        distance = log_student.exp() * (log_student - log_teacher)
    return distance.sum(1).mean() if reduction == "batchmean" else distance.mean()


class KD(LogitMethod):
    """Soft targets: ce_weight CE(labels, student) + kd_weight T^2 KL(teacher || student), both softened by T.

    Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2. The defaults are the weights of the CRD benchmark (Tian
    et al. 2020, arXiv:1910.10699); the paper itself gives no single pair.
    """

    ce_weight: Weight = 0.1
    """Weight of the cross-entropy with the hard targets."""
    kd_weight: Weight = 0.9
    """Weight of the soft targets."""
    temperature: Temperature = 4.0
    """Temperature T that softens both distributions; the paper tries 1 to 20."""
    t_squared: bool = True
    """Whether the soft term is multiplied by T^2, so that the size of its gradient does not change as T grows (the
    paper's advice if both targets are used)."""
    form: Form = "forward"
    """Form of the soft term, see ``soft_loss``."""
    reduction: Reduction = "batchmean"
    """Reduction of the soft term, see ``soft_loss``."""
    hard_temperature: Temperature = 1.0
    """Temperature of the student's logits in the hard term; 1 in the paper, T in a form that softens them there too."""
    hard_targets: Literal["labels", "teacher"] = "labels"
    """Hard targets: ``labels``, or ``teacher`` for the class that the teacher finds most likely."""

    def __post_init__(self) -> None:
        self.needs_teacher = self.kd_weight > 0 or self.hard_targets == "teacher"

    def hard(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        if not self.ce_weight:
            return {}
        targets = teacher.argmax(1) if self.hard_targets == "teacher" else batch.targets
        return {"ce": self.ce_weight * F.cross_entropy(student / self.hard_temperature, targets)}

    def soft(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        if not self.kd_weight:
            return {}
        weight = self.kd_weight * (self.temperature**2 if self.t_squared else 1.0)
        return {"kd": weight * soft_loss(student, teacher, self.temperature, self.form, self.reduction)}
