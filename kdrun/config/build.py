"""From a checked node of a config to the object whose class its ``_target_`` names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

from kdrun.config.optimizers import check_optimizer, is_optimizer
from kdrun.config.suggest import did_you_mean
from kdrun.config.values import fit, show
from kdrun.errors import ConfigError

ALLOWED = ("kdrun", "torch.optim", "torchvision")
"""Packages whose classes a node may name: a config from elsewhere must not run what it likes."""

VARIADIC, KEYWORDS = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD

NAME = frozenset({"name"})
MODEL = frozenset({"name", "taps"})
TEACHER = MODEL | {"seed", "checkpoint", "mean", "std", "recipe"}
"""Keys that a node carries beside the arguments of its class, to be given as ``drop``."""


def check(
    node: Mapping[str, Any],
    where: str,
    given: Collection[str] | None = (),
    trust: Collection[str] = (),
    drop: Collection[str] = NAME,
) -> None:
    """Refuses a ``node`` that its class would not take; builds nothing but a torch optimizer of one parameter.

    Args:
        node: ``_target_`` and the arguments of what it names; nested nodes are checked too.
        where: its dotted key, for errors.
        given: names of the arguments that code will add; None where code may add any that is missing.
        trust: packages beside ``ALLOWED`` whose classes it may name.
        drop: its keys that are no arguments.

    Raises:
        ConfigError: if the target is not allowed or not there; if a key is unknown, missing, of the wrong type or
            out of range. The message names the full key.
    """
    made = target(node, where, trust)
    values = {key: value for key, value in node.items() if key != "_target_" and key not in drop}
    if is_optimizer(made):
        given = None if given is None else ("params", *given)
    _check_keys(values, made, where, given)
    hints = hints_of(made)
    for key, value in values.items():
        _check_value(value, hints.get(key, Any), f"{where}.{key}", trust)
    if is_optimizer(made):
        check_optimizer(made, values, where)


def build(
    node: Mapping[str, Any],
    *args: Any,
    where: str,
    trust: Collection[str] = (),
    drop: Collection[str] = NAME,
    **more: Any,
) -> Any:
    """Builds what ``node`` names from ``args``, its own values, nested nodes first, and ``more``.

    A nested node stays a dict where the signature asks for a dict: the class builds it itself, with what only it knows.

    Args:
        node: ``_target_`` and the arguments of what it names.
        args: the first arguments, in order.
        where: its dotted key, for errors.
        trust: packages beside ``ALLOWED`` whose classes it may name.
        drop: its keys that are no arguments.
        more: further arguments by name.

    Raises:
        ConfigError: as ``check`` does, and where the class itself refuses with a ValueError.
    """
    made = target(node, where, trust)
    first = list(inspect.signature(made).parameters)[: len(args)]
    check(node, where, [*first, *more], trust, drop)
    hints = hints_of(made)
    values = {
        key: _built(value, hints.get(key, Any), f"{where}.{key}", trust)
        for key, value in node.items()
        if key != "_target_" and key not in drop
    }
    try:
        return made(*args, **{**values, **more})
    except (ValueError, TypeError) as fault:
        if isinstance(fault, TypeError) and str(node["_target_"]).startswith("kdrun."):
            raise  # its signature was checked, so this is a slip of ours; others may pass **kwargs on
        raise ConfigError(where, str(fault)) from fault


def target(node: Mapping[str, Any], where: str, trust: Collection[str] = ()) -> Callable[..., Any]:
    """Returns the class or function that ``node`` names.

    Raises:
        ConfigError: if it is outside ``ALLOWED`` and ``trust``, or not there.
    """
    path = node.get("_target_")
    where = f"{where}._target_"
    if not isinstance(path, str) or "." not in path:
        raise ConfigError(where, f"{show(path)} does not name a class")
    _check_allowed(path, path, where, trust)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except ImportError as fault:
        raise ConfigError(where, f"cannot import {path!r}: {fault}") from fault
    except AttributeError as fault:
        names = vars(import_module(module))
        raise ConfigError(where, f"no {name!r} in {module}{did_you_mean(name, names)}") from fault
    if not callable(found):
        raise ConfigError(where, f"{path!r} is not a class")
    # What a module merely imported, such as os.system by way of some module's `from os import system`, is not its own.
    _check_allowed(getattr(found, "__module__", None) or "", path, where, trust)
    return found  # type: ignore[no-any-return]


def _check_allowed(origin: str, path: str, where: str, trust: Collection[str]) -> None:
    allowed = (*ALLOWED, *trust)
    if not any(f"{origin}.".startswith(f"{package}.") for package in allowed):
        package = (origin or path).partition(".")[0]
        raise ConfigError(where, f"{path!r} is not under {', '.join(allowed)}; if you trust it, add trust=[{package}]")


def hints_of(made: Callable[..., Any]) -> dict[str, Any]:
    """Returns the annotations of the arguments of ``made``; of what cannot be resolved, none."""
    source = made if is_dataclass(made) or not inspect.isclass(made) else made.__init__
    try:
        return get_type_hints(source, include_extras=True)
    except NameError:  # a name that its module imports for type checkers only
        return {}


def _check_keys(values: Mapping[str, Any], made: Any, where: str, given: Collection[str] | None) -> None:
    parameters = inspect.signature(made).parameters
    takes = [key for key, parameter in parameters.items() if parameter.kind not in (VARIADIC, KEYWORDS)]
    free = [key for key in takes if key not in (given or ())]
    is_open = any(parameter.kind is KEYWORDS for parameter in parameters.values())
    for key in values:
        if key not in free and not is_open:
            meant = did_you_mean(f"{where}.{key}", [f"{where}.{name}" for name in free])
            raise ConfigError(f"{where}.{key}", f"unknown key{meant or _takes(made, free)}")
    for key in free if given is not None else ():
        if key not in values and parameters[key].default is inspect.Parameter.empty:
            raise ConfigError(f"{where}.{key}", f"missing{_takes(made, free)}")


def _takes(made: Any, keys: list[str]) -> str:
    return f"; {made.__name__} takes {', '.join(keys) or 'nothing'}"


def is_node(value: Any) -> bool:
    """Whether ``value`` names a class."""
    return isinstance(value, Mapping) and "_target_" in value


def _wants_dict(hint: Any) -> bool:
    return hint is dict or get_origin(hint) is dict or any(_wants_dict(part) for part in get_args(hint))


def _check_value(value: Any, hint: Any, where: str, trust: Collection[str]) -> None:
    if is_node(value):
        given = None if _wants_dict(hint) else ()
        check(value, where, given, trust, drop=MODEL)
    elif isinstance(value, list) and any(is_node(item) for item in value):
        for place, item in enumerate(value):
            _check_value(item, hint, f"{where}[{place}]", trust)
    else:
        fit(value, hint, where)


def _built(value: Any, hint: Any, where: str, trust: Collection[str]) -> Any:
    if is_node(value) and not _wants_dict(hint):
        return build(value, where=where, trust=trust, drop=MODEL)
    if isinstance(value, list) and not _wants_dict(hint):
        return [_built(item, hint, f"{where}[{place}]", trust) for place, item in enumerate(value)]
    return value
