"""Masked generative distillation: from a part of its channels the student must generate the teacher's map."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from kdrun.errors import ConfigError
from kdrun.methods.arguments import Weight
from kdrun.methods.feature import Batch, FeatureMethod, Outputs, Terms, last_maps


class MGD(FeatureMethod):
    """mgd_weight times the squared error between the teacher's last map and what is generated from the student's.

    Yang et al. 2022, arXiv:2205.01529, equations 1 to 5, for classification: a 1x1 convolution brings the student's map
    to the teacher's channels, if they differ; each channel of each sample is set to 0 with probability ``mask``; two
    3x3 convolutions with ReLU between them generate the teacher's map. The error is summed over the map, as a mean over
    the batch. The learned parts are then discarded. Both maps need one size.
    """

    mgd_weight: Weight = 0.0012
    """Weight of the error; 0.00007 on ImageNet."""
    mask: Annotated[float, "[0, 1)"] = 0.15
    """Probability that a channel is masked."""

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.student_tap, self.teacher_tap = last_maps(student, teacher)
        own, theirs = student[self.student_tap], teacher[self.teacher_tap]
        if own[2:] != theirs[2:]:
            sizes = " and the teacher's ".join(f"{shape[2]}x{shape[3]}" for shape in (own, theirs))
            raise ConfigError("student.taps", f"the last maps are {sizes}; the method needs one size, tap others")
        self.align: nn.Module = nn.Identity() if own[1] == theirs[1] else nn.Conv2d(own[1], theirs[1], 1)
        self.generation = nn.Sequential(
            nn.Conv2d(theirs[1], theirs[1], 3, padding=1), nn.ReLU(), nn.Conv2d(theirs[1], theirs[1], 3, padding=1)
        )

    def hints(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        aligned = self.align(student.features[self.student_tap])
        keep = torch.rand(aligned.shape[:2], device=aligned.device)[:, :, None, None] >= self.mask
        return {"mgd": self.mgd_weight * self.error(aligned * keep, teacher.features[self.teacher_tap])}

    def error(self, masked: Tensor, teacher: Tensor) -> Tensor:
        """Returns the squared error of the map generated from ``masked``, summed over a sample, mean over the batch."""
        error: Tensor = (self.generation(masked) - teacher).square().sum() / len(teacher)
        return error
