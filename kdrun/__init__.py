"""kdrun: the knowledge-distillation lab that fits in one command.

As a library: ``distill`` trains your own modules on your own tensors; docs/library.md shows how.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdrun.data.source import Source
    from kdrun.data.tensors import Tensors
    from kdrun.errors import KdrunError
    from kdrun.library import Distilled, distill
    from kdrun.methods.base import Method, Teacherless
    from kdrun.methods.fitnets import FitNets
    from kdrun.methods.kd import KD
    from kdrun.methods.scratch import Scratch
    from kdrun.train.taps import Renormalized, Tapped

__version__ = "0.2.0"

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
    "Teacherless",
    "Tensors",
    "distill",
]

HOMES = {
    "kdrun.data.source": ["Source"],
    "kdrun.data.tensors": ["Tensors"],
    "kdrun.errors": ["KdrunError"],
    "kdrun.library": ["Distilled", "distill"],
    "kdrun.methods.base": ["Method", "Teacherless"],
    "kdrun.methods.fitnets": ["FitNets"],
    "kdrun.methods.kd": ["KD"],
    "kdrun.methods.scratch": ["Scratch"],
    "kdrun.train.taps": ["Renormalized", "Tapped"],
}
"""The modules of these names; each is imported at the first use of its name, so that ``kdrun --help`` is fast."""


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'kdrun' has no attribute {name!r}")
