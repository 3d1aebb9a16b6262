"""What methods of relations share: they read the penultimate vectors of student and teacher, of any two nets."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from kdrun.core.added import penultimate
from kdrun.core.experiment import Experiment
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms


class RelationMethod(FeatureMethod):
    """ce_weight CE(labels, student) + kd_weight T^2 KL(teacher || student) + a distance of the penultimate vectors.

    They are the inputs of the classifiers, (N, width).
    """

    reads: ClassVar = frozenset({"logits", "classifier"})

    def setup(self, exp: Experiment) -> None:
        self.student_tap, self.teacher_tap = penultimate(exp, exp.student), penultimate(exp, exp.teacher)

    def relations(self, student: Tensor, teacher: Tensor) -> Terms:
        """Returns the method's own weighted terms, of the two vectors (N, width) of a batch."""
        raise TypeError(f"{type(self).__name__} defines no relations")

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        return self.relations(student.features[self.student_tap], teacher.features[self.teacher_tap])


__all__ = ["RelationMethod", "Tensor", "Terms"]
