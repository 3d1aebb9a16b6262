"""Distilling the knowledge in a neural network, in all the forms that have been printed of it."""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from torch import Tensor

from kdrun.methods.base import Batch, Method, Outputs, Terms

Form = Literal["forward", "reverse", "cross_entropy"]
Reduction = Literal["batchmean", "mean"]


def soft_loss(
    student: Tensor, teacher: Tensor, temperature: float, form: Form = "forward", reduction: Reduction = "batchmean"
) -> Tensor:
    """Returns how far the softened logits of the student are from those of the teacher, without the factor T^2.

    Args:
        student: logits (N, classes).
        teacher: logits (N, classes).
        temperature: T that divides both.
        form: ``forward`` is KL(teacher || student); ``reverse`` is KL(student || teacher); ``cross_entropy`` is
            -sum p_teacher log p_student, which differs from forward by the teacher's entropy, a constant: the
            gradient is the same.
        reduction: ``batchmean`` sums over classes and takes the mean over the batch; ``mean`` divides by the number
            of classes too, as torch's default does and, by it, much published code.
    """
    log_student, log_teacher = F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1)
    if form == "cross_entropy":
        apart = -log_teacher.exp() * log_student
    elif form == "forward":
        apart = log_teacher.exp() * (log_teacher - log_student)
    else:
        apart = log_student.exp() * (log_student - log_teacher)
    return apart.sum(1).mean() if reduction == "batchmean" else apart.mean()


class KD(Method):
    """Soft targets: ce_weight CE(labels, student) + kd_weight T^2 KL(teacher || student), both softened by T.

    Hinton, Vinyals, Dean 2015, arXiv:1503.02531, section 2. The defaults are the weights of the CRD benchmark (Tian
    et al. 2020, arXiv:1910.10699); the paper itself gives no single pair.

    Args:
        ce_weight: of the cross-entropy with the hard targets.
        kd_weight: of the soft targets.
        temperature: T > 0 that softens both distributions; the paper tries 1 to 20.
        t_squared: whether the soft term is multiplied by T^2, which keeps its gradient's size as T grows (the
            paper's advice where both targets are used).
        form: of the soft term, see ``soft_loss``.
        reduction: of the soft term, see ``soft_loss``.
        hard_temperature: divides the student's logits in the hard term; 1 in the paper, T in a form that softens
            the student there too.
        hard_targets: ``labels``, or ``teacher`` for the class that the teacher finds most likely.
    """

    def __init__(
        self,
        ce_weight: Annotated[float, "[0, inf)"] = 0.1,
        kd_weight: Annotated[float, "[0, inf)"] = 0.9,
        temperature: Annotated[float, "(0, 1000]"] = 4.0,
        t_squared: bool = True,
        form: Form = "forward",
        reduction: Reduction = "batchmean",
        hard_temperature: Annotated[float, "(0, 1000]"] = 1.0,
        hard_targets: Literal["labels", "teacher"] = "labels",
    ) -> None:
        super().__init__()
        self.needs_teacher = kd_weight > 0 or hard_targets == "teacher"
        self.ce_weight = ce_weight
        self.kd_weight = kd_weight * (temperature**2 if t_squared else 1.0)
        self.temperature = temperature
        self.form: Form = form
        self.reduction: Reduction = reduction
        self.hard_temperature = hard_temperature
        self.hard_targets = hard_targets

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        terms, targets = {}, batch.targets
        if teacher and self.hard_targets == "teacher":
            targets = teacher.logits.argmax(1)
        if self.ce_weight:
            terms["ce"] = self.ce_weight * F.cross_entropy(student.logits / self.hard_temperature, targets)
        if teacher and self.kd_weight:
            apart = soft_loss(student.logits, teacher.logits, self.temperature, self.form, self.reduction)
            terms["kd"] = self.kd_weight * apart
        return terms
