"""The kinds of classes that a node may name: which kind belongs at which place, and whether a target is of it."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from kdrun.errors import ConfigError


@dataclass(frozen=True)
class Kind:
    """What a class must derive from to stand at a place; as a mark in ``Annotated`` it says so of an argument.

    Args:
        word: what one of the kind is called in an error: ``a method``.
        base: the class, or its dotted path, imported at the first check: this room lies below all of them.
    """

    word: str
    base: type | str

    def has(self, cls: Any) -> bool:
        """Whether ``cls``, a class or what a function returns, is of this kind."""
        if inspect.isclass(cls):
            return issubclass(cls, self.cls)
        return self is SCHEDULE and cls == Callable[[float], float]

    @property
    def cls(self) -> type:
        """The class that all of this kind derive from."""
        if isinstance(self.base, type):
            return self.base
        module, _, name = self.base.rpartition(".")
        cls: type = getattr(import_module(module), name)
        return cls


METHOD = Kind("a method", "kdrun.methods.base.AnyMethod")
DATASET = Kind("a dataset", "kdrun.data.source.Source")
MODEL = Kind("a model", "torch.nn.Module")
OPTIMIZER = Kind("an optimizer", "torch.optim.Optimizer")
SCHEDULE = Kind("a schedule", "kdrun.train.schedules.Schedule")

KINDS = (METHOD, DATASET, MODEL, OPTIMIZER, SCHEDULE)
"""All of them: what a node may name where the annotation of its argument does not say which."""


def check_kind(target: Any, path: str, kinds: Collection[Kind], where: str) -> None:
    """Refuses a ``target`` that is neither a class of one of ``kinds`` nor a function whose annotated return is one.

    Args:
        target: what the node names; it is not called.
        path: how the node names it.
        kinds: those that belong at the place.
        where: the dotted key of the name, for an error.

    Raises:
        ConfigError: naming what belongs there.
    """
    words = " or ".join(kind.word for kind in kinds)
    if inspect.isclass(target):
        if not any(kind.has(target) for kind in kinds):
            raise ConfigError(where, f"{path!r} is not {words}")
        return
    returned = list(_returned(target))
    if not returned:
        raise ConfigError(where, f"{path!r} is not {words}: a function has to say what it returns, as in -> nn.Module")
    if not all(any(kind.has(cls) for kind in kinds) for cls in returned):
        raise ConfigError(where, f"{path!r} is not {words}: it returns something else")


def _returned(function: Callable[..., Any]) -> Iterator[Any]:
    """Yields the classes in the annotated return of ``function``, which may be a union; nothing if there is none."""
    try:
        hint = get_type_hints(inspect.unwrap(function)).get("return")
    except (NameError, AttributeError, TypeError, ValueError):  # an annotation that cannot be read says nothing
        return
    yield from _parts(hint)


def _parts(hint: Any) -> Iterator[Any]:
    if get_origin(hint) in (Union, types.UnionType):
        for part in get_args(hint):
            yield from _parts(part)
    elif hint not in (None, type(None), Any):
        yield hint


def kinds_of(hint: Any) -> tuple[Kind, ...]:
    """Returns the kinds that the annotation ``hint`` of an argument allows for a node; none if it is of plain values.

    A ``Kind`` in ``Annotated`` is that kind; a class is a kind of its own; a list or a union allows what its parts do.
    Where a plain ``dict`` or nothing is said, a node may be of any of ``KINDS``.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        marked = tuple(mark for mark in get_args(hint)[1:] if isinstance(mark, Kind))
        return marked or kinds_of(get_args(hint)[0])
    if hint in (Any, object, dict) or origin in (dict, Mapping):
        return KINDS
    if Callable in (hint, origin):
        return (SCHEDULE,)
    if origin is not None:
        return tuple(dict.fromkeys(kind for part in get_args(hint) for kind in kinds_of(part)))
    is_class = inspect.isclass(hint) and hint.__module__ not in ("builtins", "pathlib")
    return (Kind(f"a {hint.__name__}", hint),) if is_class else ()
