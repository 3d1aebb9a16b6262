"""Checks the nodes of a config, and builds the objects whose classes they name in ``_target_``."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

from kdrun.config.kinds import KINDS, Kind, check_kind, kinds_of
from kdrun.config.nodes import MODEL_ONLY
from kdrun.config.optimizers import check_optimizer, is_optimizer
from kdrun.config.suggest import did_you_mean
from kdrun.config.values import check_value, show
from kdrun.errors import ConfigError

ALLOWED = ("kdrun", "torch.optim", "torchvision")
"""Packages whose classes a node may name: a config from another person must not run arbitrary code."""

VARIADIC, KEYWORDS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD

NAME = frozenset({"name"})
MODEL = frozenset({"name", "taps"})
TEACHER = MODEL_ONLY
"""Keys of a node that are not arguments of its class, to be passed as ``drop``."""


class Builder:
    """Checks nodes and builds the objects that they name; it knows which packages this run trusts.

    Args:
        trust: further packages, besides ``ALLOWED``, whose classes a node may name.
    """

    def __init__(self, trust: Collection[str] = ()) -> None:
        self.trust = tuple(trust)
        self._checked: set[str] = set()

    def check(
        self,
        node: Mapping[str, Any],
        where: str,
        supplied: Collection[str] | None = (),
        drop: Collection[str] = NAME,
        kinds: Collection[Kind] = KINDS,
    ) -> None:
        """Refuses a ``node`` that its class would not accept; it builds only torch optimizers, with one parameter.

        Args:
            node: ``_target_`` and the arguments of the class that it names; nested nodes are checked too.
            where: the dotted key of ``node``, for errors.
            supplied: names of the arguments that code will add; None if code may add any missing argument.
            drop: keys of ``node`` that are not arguments.
            kinds: what belongs at ``where``.

        Raises:
            ConfigError: if the target is not allowed, does not exist or is of another kind; if a key is unknown,
                missing, of the wrong type or out of range. The message names the full key.
        """
        target = self.target(node, where, kinds)
        values = {key: value for key, value in node.items() if key != "_target_" and key not in drop}
        if supplied is not None:
            supplied = sorted({*supplied, *(["params"] if is_optimizer(target) else [])})
        known = repr((node["_target_"], values, supplied))
        if known not in self._checked:
            self._check(values, target, where, supplied)
            self._checked.add(known)

    def _check(
        self, values: Mapping[str, Any], target: Callable[..., Any], where: str, supplied: Collection[str] | None
    ) -> None:
        _check_keys(values, target, where, supplied)
        hints = hints_of(target)
        for key, value in values.items():
            self._check_value(value, hints.get(key, Any), f"{where}.{key}")
        if is_optimizer(target):
            check_optimizer(target, values, where)

    def _check_value(self, value: Any, hint: Any, where: str) -> None:
        if isinstance(hint, Unreadable):
            raise ConfigError(where, hint.why)
        if is_node(value) and (kinds := kinds_of(hint)):
            self.check(value, where, None if _wants_dict(hint) else (), MODEL, kinds)
        elif isinstance(value, list) and any(is_node(item) for item in value):
            for number, item in enumerate(value):
                self._check_value(item, hint, f"{where}[{number}]")
        else:
            check_value(value, hint, where)

    def build(
        self,
        node: Mapping[str, Any],
        *args: Any,
        where: str,
        drop: Collection[str] = NAME,
        kinds: Collection[Kind] = KINDS,
        **more: Any,
    ) -> Any:
        """Builds the object that ``node`` names, from ``args``, the values of ``node`` and ``more``.

        Nested nodes are built first. A nested node stays a dict if the signature requires a dict: the class then builds
        it later, with arguments that only the class knows.

        Args:
            node: ``_target_`` and the arguments of the class that it names.
            args: the first arguments, in order.
            where: the dotted key of ``node``, for errors.
            drop: keys of ``node`` that are not arguments.
            kinds: what belongs at ``where``.
            more: further arguments by name.

        Raises:
            ConfigError: as ``check`` does, and if the class itself raises a ValueError or, outside kdrun, a TypeError.
        """
        target = self.target(node, where, kinds)
        first = list(inspect.signature(target).parameters)[: len(args)]
        self.check(node, where, [*first, *more], drop, kinds)
        hints = hints_of(target)
        values = {
            key: self._built(value, hints.get(key, Any), f"{where}.{key}")
            for key, value in node.items()
            if key != "_target_" and key not in drop
        }
        try:
            return target(*args, **{**values, **more})
        except (ValueError, TypeError) as fault:
            if isinstance(fault, TypeError) and str(node["_target_"]).startswith("kdrun."):
                raise  # its signature was checked, so this is a bug of kdrun; other classes may pass **kwargs on
            raise ConfigError(where, str(fault)) from fault

    def _built(self, value: Any, hint: Any, where: str) -> Any:
        if is_node(value) and not _wants_dict(hint):
            return self.build(value, where=where, drop=MODEL, kinds=kinds_of(hint))
        if isinstance(value, list) and not _wants_dict(hint):
            return [self._built(item, hint, f"{where}[{number}]") for number, item in enumerate(value)]
        return value

    def target(self, node: Mapping[str, Any], where: str, kinds: Collection[Kind] = KINDS) -> Callable[..., Any]:
        """Returns the class or function that ``node`` names; it is not called.

        Args:
            node: ``_target_``, and anything beside it.
            where: the dotted key of ``node``, for errors.
            kinds: what belongs there.

        Raises:
            ConfigError: if it is outside ``ALLOWED`` and the trusted packages, does not exist, or is of another kind.
        """
        path, where = node.get("_target_"), f"{where}._target_"
        if not isinstance(path, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", path):
            raise ConfigError(where, f"{show(path)} does not name a class")
        self._check_allowed(path, path, where)
        target = _named(path, where)
        check_kind(target, path, kinds, where)
        # A name that the module only imports, `from another import Net`, belongs to that other package.
        self._check_allowed(getattr(target, "__module__", None) or "", path, where)
        return target

    def _check_allowed(self, origin: str, path: str, where: str) -> None:
        allowed = (*ALLOWED, *self.trust)
        if not any(f"{origin}.".startswith(f"{package}.") for package in allowed):
            package = (origin or path).partition(".")[0]
            way_out = f"if you trust it, add trust=[{package}]"
            raise ConfigError(where, f"{path!r} is not under {', '.join(allowed)}; {way_out}")


def _named(path: str, where: str) -> Callable[..., Any]:
    module, _, name = path.rpartition(".")
    try:
        home = import_module(module)
    except Exception as fault:  # any: it runs the module, which may be the user's own
        why = str(fault) if isinstance(fault, ImportError) else f"{type(fault).__name__}: {fault}"
        raise ConfigError(where, f"cannot import {path!r}: {why}") from fault
    try:
        target = getattr(home, name)
    except AttributeError as fault:
        raise ConfigError(where, f"no {name!r} in {module}{did_you_mean(name, vars(home))}") from fault
    if not callable(target):
        raise ConfigError(where, f"{path!r} is not a class")
    return target  # type: ignore[no-any-return]


class Unreadable:
    """An annotation that cannot be resolved: it is an error for its argument, which is never left unchecked."""

    def __init__(self, why: str) -> None:
        self.why = why


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of the arguments of ``target``; ``Unreadable`` for each that cannot be resolved."""
    return dict(_hints(target))


def _hints(target: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    for name, annotation, names in _annotations(target):
        holder = SimpleNamespace(__annotations__={name: annotation})
        try:
            yield name, get_type_hints(holder, names, include_extras=True)[name]
        except (NameError, AttributeError, TypeError) as fault:
            yield name, Unreadable(f"its annotation cannot be read ({fault}): import that name where it runs")


def _annotations(target: Callable[..., Any]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yields name, annotation and namespace of each argument; for a dataclass, also of its bases' fields."""
    if "__dataclass_fields__" in vars(target):
        takes, bases = inspect.signature(target).parameters, target.__mro__  # type: ignore[attr-defined]
        for base in (base for base in reversed(bases) if "__dataclass_fields__" in vars(base)):
            own, names = vars(base).get("__annotations__", {}), vars(sys.modules[base.__module__])
            yield from ((name, annotation, names) for name, annotation in own.items() if name in takes)
        return
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    names = getattr(function, "__globals__", {})
    yield from ((name, annotation, names) for name, annotation in getattr(function, "__annotations__", {}).items())


def _check_keys(values: Mapping[str, Any], target: Any, where: str, supplied: Collection[str] | None) -> None:
    parameters = inspect.signature(target).parameters
    takes = [key for key, parameter in parameters.items() if parameter.kind not in (VARIADIC, KEYWORDS)]
    free = [key for key in takes if key not in (supplied or ())]
    is_open = any(parameter.kind is KEYWORDS for parameter in parameters.values())
    for key in values:
        if key not in free and not is_open:
            meant = did_you_mean(f"{where}.{key}", [f"{where}.{name}" for name in free])
            raise ConfigError(f"{where}.{key}", f"unknown key{meant or _takes(target, free)}")
    for key in free if supplied is not None else ():
        if key not in values and parameters[key].default is inspect.Parameter.empty:
            raise ConfigError(f"{where}.{key}", f"missing{_takes(target, free)}")


def _takes(target: Any, keys: list[str]) -> str:
    return f"; {target.__name__} takes {', '.join(keys) or 'nothing'}"


def is_node(value: Any) -> bool:
    """Whether ``value`` names a class."""
    return isinstance(value, Mapping) and "_target_" in value


def _wants_dict(hint: Any) -> bool:
    return hint is dict or get_origin(hint) is dict or any(_wants_dict(part) for part in get_args(hint))
