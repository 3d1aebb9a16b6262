"""The base class of methods around the soft part of another."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kdrun.config.nodes import Node
from kdrun.errors import ConfigError
from kdrun.methods.arguments import MethodNode
from kdrun.methods.base import Batch, HardAndSoft, Scores, Terms

if TYPE_CHECKING:
    from kdrun.core.experiment import Experiment


class Wrapper(HardAndSoft):
    """A method that changes what another one's soft part sees; the hard part stays as it is.

    A wrapper has both parts itself, so wrappers can be around each other.
    """

    base: MethodNode
    """Method that is changed; any whose loss has a soft part, such as kd and dkd."""

    inner: HardAndSoft = field(init=False)

    def setup(self, exp: Experiment) -> None:
        self.inner = with_soft_part(exp, self.base)
        self.inner.setup(exp)

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.inner.connect(student, teacher)

    def hard(self, student: Tensor, teacher: Tensor, batch: Batch) -> Terms:
        return self.inner.hard(student, teacher, batch)

    def after_step(self) -> None:
        self.inner.after_step()

    def memory(self) -> nn.Module:
        return self.inner.memory()

    def metrics(self, exp: Experiment) -> Scores:
        return self.inner.metrics(exp)


def with_soft_part(exp: Experiment, base: Node) -> HardAndSoft:
    """Returns the method of the node ``base``, not yet set up.

    Raises:
        ConfigError: if its loss has no soft part.
    """
    method = exp.method(base)
    if not isinstance(method, HardAndSoft):
        what = f"{base.get('name', base['_target_'])} has no soft part apart from its cross-entropy"
        raise ConfigError("method.base", f"{what}; choose a method of logits, such as kd or dkd")
    return method
