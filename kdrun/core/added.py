"""Taps that a method adds to any model: the penultimate vector, the last map, maps before their activation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.errors import ConfigError
from kdrun.train.stage import Outputs
from kdrun.train.taps import INPUT, Tapped

Model = Tapped | Trained
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU)


def penultimate(exp: Experiment, model: Model) -> int:
    """Returns the number of the feature that is the input of the model's classifier, (N, width); adds its tap.

    Raises:
        ConfigError: if the model's logits do not come from its last linear layer.
    """
    return tapped(model).add(f"{classifier_name(exp, model)}{INPUT}")


def classifier_name(exp: Experiment, model: Model) -> str:
    """Returns the dotted name of the model's classifier, see ``Experiment.classifier``."""
    layer = exp.classifier(model, role(exp, model))
    names: dict[nn.Module, str] = {module: name for name, module in tapped(model).model.named_modules()}
    return names[layer]


def shape_of(exp: Experiment, model: Model, number: int) -> torch.Size:
    """Returns the shape (1, ...) of feature ``number`` of the model, found by tracing; leaves it in eval mode."""
    net = tapped(model)
    with torch.no_grad():
        outputs: Outputs = net.eval()(ramp(exp))
    return outputs.features[number].shape


def last_map(exp: Experiment, model: Model) -> int:
    """Returns the number of the feature (N, C, H, W) whose mean over positions is the penultimate vector; adds its tap.

    Raises:
        ConfigError: if the model has no such map, or if its logits do not come from its last linear layer.
    """
    net, number = tapped(model), penultimate(exp, model)
    calls, vector = traced(exp, net, number)
    maps = [call for call in calls if call.input.dim() == 4 and call.input.shape[1] == vector.shape[1]]
    pooled = [call for call in maps if torch.allclose(call.input.mean((2, 3)), vector, atol=1e-5)]
    if not pooled:
        what = "the input of its classifier is not the mean of a map over its positions"
        raise ConfigError(role(exp, model), f"{what}; this method needs a model where it is")
    largest = max(call.input[0, 0].numel() for call in pooled)  # a map that is pooled already has one position
    last = next(call for call in reversed(pooled) if call.input[0, 0].numel() == largest)
    return net.add(f"{last.name}{INPUT}")


class Preactivation(NamedTuple):
    """A map before its activation."""

    number: int
    """The number of the feature."""
    norm: nn.Module | None
    """The last normalization before the activation; in a residual block that of the main branch."""


class Call(NamedTuple):
    """A call of a submodule without submodules: what went in, what came out."""

    name: str
    module: nn.Module
    input: Tensor
    output: Tensor


def preactivation(exp: Experiment, model: Model, number: int) -> Preactivation:
    """Returns the map of own tap ``number`` before its activation; adds its tap if need be.

    If the tapped map comes out of an activation, it is the input of that. If the tapped map goes on into a
    normalization and an activation, as in a pre-activation net, it is the input of that one. Else it is the tapped map
    itself. The activation must be a module, in place or not.

    Raises:
        ConfigError: if the tapped map has been through an activation that is no module, or lies further up.
    """
    net = tapped(model)
    calls, feature = traced(exp, net, number)
    for call in calls:
        if isinstance(call.module, ACTIVATIONS) and call.output is feature:
            return Preactivation(net.add(f"{call.name}{INPUT}"), norm_before(net, call, calls))
    for norm, active in pairwise(calls):
        goes_on = isinstance(norm.module, NORMS) and norm.input is feature and active.input is norm.output
        if goes_on and isinstance(active.module, ACTIVATIONS):
            return Preactivation(net.add(f"{active.name}{INPUT}"), norm.module)
    if not bool((feature < 0).any()):
        what = f"{net.taps[number]} is no output of an activation module, but has no negative values either"
        raise ConfigError(f"{role(exp, model)}.taps", f"{what}; tap the activation itself")
    own = net.model.get_submodule(net.taps[number].removesuffix(INPUT))
    return Preactivation(number, last_norm(own.modules()))


def norm_before(net: Tapped, active: Call, calls: list[Call]) -> nn.Module | None:
    """Returns the normalization whose output ``active`` takes, or else the last one of the same block.

    In a block whose layers are its children it is the last child, which leaves out those of the shortcut.
    """
    for call in calls:
        if isinstance(call.module, NORMS) and call.output is active.input:
            return call.module
    block = net.model.get_submodule(active.name.rpartition(".")[0])
    branch = next((child for child in block.children() if last_norm(child.modules())), block)
    return last_norm(block.children()) or last_norm(branch.modules())


def last_norm(modules: Iterable[nn.Module]) -> nn.Module | None:
    """Returns the last normalization among ``modules``; None if there is none."""
    return next((module for module in reversed(list(modules)) if isinstance(module, NORMS)), None)


def traced(exp: Experiment, net: Tapped, number: int) -> tuple[list[Call], Tensor]:
    """Returns the calls of all submodules without submodules, in order, and the feature of own tap ``number``."""
    calls: list[Call] = []
    hooks = [
        module.register_forward_hook(
            lambda module, args, output, name=name: calls.append(Call(name, module, args[0], output))
        )
        for name, module in net.model.named_modules()
        if not any(module.children())
    ]
    with torch.no_grad():
        feature = net.eval()(ramp(exp)).features[number]
    for hook in hooks:
        hook.remove()
    return calls, feature


def tapped(model: Model) -> Tapped:
    """Returns the tapped model itself."""
    return model if isinstance(model, Tapped) else model.tapped


def role(exp: Experiment, model: Model) -> str:
    """Returns the key of the model in a config, for errors."""
    return "student" if model is exp.student else "teacher"


def ramp(exp: Experiment) -> Tensor:
    """Returns one image for tracing, whose pixels go from -2 to 2."""
    source = exp.data.source
    shape = (1, source.channels, source.size, source.size)
    return torch.linspace(-2, 2, torch.Size(shape).numel(), device=exp.runtime.device).view(shape)


def blocks(model: Model) -> list[int]:
    """Returns the numbers of the features that are the outputs of all blocks of the tapped stages; adds their taps.

    A tapped stage that is a sequence of modules with submodules has these as its blocks; any other is one block.
    """
    net = tapped(model)
    names = (name for tap in net.taps for name in block_names(net.model.get_submodule(tap), tap))
    return [net.add(name) for name in names]


def block_names(module: nn.Module, name: str) -> Iterator[str]:
    """Yields the dotted names of the blocks of ``module``, which is called ``name``."""
    children = dict(module.named_children())
    if isinstance(module, nn.Sequential) and children and all(any(child.children()) for child in children.values()):
        for key, child in children.items():
            yield from block_names(child, f"{name}.{key}")
    else:
        yield name
