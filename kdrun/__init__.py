"""kdrun: the knowledge-distillation lab that fits in one command.

As a library: ``distill`` trains one's own modules on one's own tensors; docs/library.md shows how.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdrun.data.source import Source
    from kdrun.data.tensors import Tensors
    from kdrun.errors import KdrunError
    from kdrun.library import Distilled, distill
    from kdrun.methods.base import Method
    from kdrun.methods.fitnets import FitNets
    from kdrun.methods.kd import KD
    from kdrun.methods.scratch import Scratch
    from kdrun.train.taps import Renormalized, Tapped

__version__ = "0.1.0"

__all__ = [
    "KD",
    "Distilled",
    "FitNets",
    "KdrunError",
    "Method",
    "Renormalized",
    "Scratch",
    "Source",
    "Tapped",
    "Tensors",
    "distill",
]

HOMES = {
    "kdrun.data.source": ["Source"],
    "kdrun.data.tensors": ["Tensors"],
    "kdrun.errors": ["KdrunError"],
    "kdrun.library": ["Distilled", "distill"],
    "kdrun.methods.base": ["Method"],
    "kdrun.methods.fitnets": ["FitNets"],
    "kdrun.methods.kd": ["KD"],
    "kdrun.methods.scratch": ["Scratch"],
    "kdrun.train.taps": ["Renormalized", "Tapped"],
}
"""Where these names live: imported when they are asked for, since ``kdrun --help`` must not wait for torch."""


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'kdrun' has no attribute {name!r}")
