"""The direction of a hidden layer: the student's features turn towards the teacher's."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.errors import ConfigError
from kdrun.methods.base import Batch, Method, Outputs, Terms
from kdrun.methods.fitnets import choose


class Cosine(Method):
    """ce_weight CE(labels, student) + cosine_weight (1 - cosine(student's features, teacher's features)).

    PyTorch's tutorial "Knowledge Distillation", section "Cosine loss minimization run". The teacher's features,
    flattened, are brought to the length of the student's by means over neighbours; their norms do not matter.

    Args:
        ce_weight: of the cross-entropy with the labels.
        cosine_weight: of the cosine distance.
        hint: which of the teacher's taps is looked at, from 0; the middle one where None.
        guided: which of the student's taps turns towards it, from 0; the middle one where None.
    """

    def __init__(
        self,
        ce_weight: Annotated[float, "[0, inf)"] = 0.75,
        cosine_weight: Annotated[float, "[0, inf)"] = 0.25,
        hint: Annotated[int, "[0, inf)"] | None = None,
        guided: Annotated[int, "[0, inf)"] | None = None,
    ) -> None:
        super().__init__()
        self.ce_weight, self.cosine_weight = ce_weight, cosine_weight
        self.hint, self.guided = hint, guided

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.hint = choose("hint", self.hint, teacher, "teacher")
        self.guided = choose("guided", self.guided, student, "student")
        short, long = student[self.guided].numel(), teacher[self.hint].numel()
        if long % short:
            what = f"the teacher's {long} features are no multiple of the student's {short}; choose other taps"
            raise ConfigError("method.guided", what)

    def loss(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> Terms:
        assert teacher is not None and self.hint is not None and self.guided is not None
        guess, hint = student.features[self.guided].flatten(1), teacher.features[self.hint].flatten(1)
        return {
            "ce": self.ce_weight * F.cross_entropy(student.logits, batch.targets),
            "cosine": self.cosine_weight * (1 - F.cosine_similarity(guess, pooled(hint, guess.shape[1]))).mean(),
        }


def pooled(features: Tensor, length: int) -> Tensor:
    """Returns ``features`` (N, n * length) as the means of every n neighbours, (N, length)."""
    return features.reshape(len(features), length, -1).mean(2)
