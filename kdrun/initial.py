"""Initial weights: drawn from a seed and the model's node alone, whatever was drawn before."""

from __future__ import annotations

import torch

from kdrun.config.build import build
from kdrun.data.source import Source
from kdrun.errors import ConfigError
from kdrun.nodes import Node, bare
from kdrun.runtime import derive
from kdrun.taps import Tapped


def fresh(
    node: Node, seed: int, source: Source, device: torch.device, trust: tuple[str, ...], where: str = "student"
) -> Tapped:
    """Returns the model of ``node``, built for ``source``, its initial weights drawn from the seed and the node."""
    core, taps = bare(node), node.get("taps", ())
    if isinstance(taps, str):
        raise ConfigError(f"{where}.taps", f"{taps!r} is not a list; write [{taps}]")
    with drawn(derive(seed, "student", repr(sorted(core.items())))):
        model = build(core, source.channels, source.classes, source.size, where=where, trust=trust)
    if getattr(model, "channels_last", False):
        model.to(memory_format=torch.channels_last)
    try:
        return Tapped(model, taps).to(device)
    except AttributeError as error:
        raise ConfigError(f"{where}.taps", str(error)) from error


class drawn:
    """A context in which torch's global CPU generator starts from ``seed``; afterwards it is as it was before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *args: object) -> None:
        torch.set_rng_state(self.state)
