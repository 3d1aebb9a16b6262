"""Checks whether the annotation in a signature allows a value of a config."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from kdrun.config.suggest import did_you_mean
from kdrun.errors import ConfigError

KINDS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a number"),
    str: ((str,), "text"),
    type(None): ((type(None),), "null"),
}
"""For each plain type: the types of the values that it accepts, and its name in an error."""

CONTROL = re.compile(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
"""What no text of a config holds: control characters except tab and line ends, and halves of characters."""

INTERVAL = re.compile(r"([\[(])\s*([^,\s]+)\s*,\s*([^,\s]+)\s*([\])])")


class Pattern(NamedTuple):
    """The pattern that a text must match, as a mark in ``Annotated[str, Pattern(...)]``."""

    pattern: str
    """A regular expression, matched against the whole text."""
    fault: str
    """The error message for a text that does not match, which follows the text itself."""


def show(value: Any) -> str:
    """Returns ``value`` as one would write it on the command line, shortened if it is long."""
    text = {"None": "null", "True": "true", "False": "false"}.get(repr(value), repr(value))
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def check_value(value: Any, hint: Any, where: str) -> None:
    """Refuses a ``value`` that the annotation ``hint`` does not allow.

    Plain types, ``Literal``, unions, lists, tuples and dicts of them are checked; so are intervals, as in
    ``Annotated[float, "(0, 1]"]``, and ``Pattern``. For any other class, every value is accepted.

    Raises:
        ConfigError: naming ``where``, the value, and which values are allowed.
    """
    origin = get_origin(hint)
    if origin is Annotated:
        _check_marked(value, *get_args(hint), where=where)
    elif origin in (Union, types.UnionType):
        _check_one_of(value, get_args(hint), where)
    elif origin is Literal:
        _check_choice(value, get_args(hint), where)
    elif hint in (list, tuple) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        _check_list(value, get_args(hint) or (Any, ...), where)
    elif hint is dict or origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise ConfigError(where, f"{show(value)} is not a group of keys")
    elif hint in KINDS:
        _check_kind(value, hint, where)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(where, f"{show(value)} is not a finite number")


def _check_kind(value: Any, kind: Any, where: str) -> None:
    taken, word = KINDS[kind]
    if not isinstance(value, taken) or (isinstance(value, bool) and bool not in taken):
        raise ConfigError(where, f"{show(value)} is not {word}")


def _check_marked(value: Any, hint: Any, *marks: Any, where: str) -> None:
    if hint in KINDS:
        _check_kind(value, hint, where)  # nan and inf are checked by the interval, whose error names the range
    else:
        check_value(value, hint, where)
    for mark in marks:
        if isinstance(mark, Pattern) and not re.fullmatch(mark.pattern, value):
            raise ConfigError(where, f"{show(value)} {mark.fault}")
        if isinstance(mark, str) and not inside(value, mark):
            raise ConfigError(where, out_of_range(value, mark))


def out_of_range(value: float, interval: str) -> str:
    """Returns the error message for a ``value`` outside ``interval``."""
    return f"{show(value).removesuffix('.0')} is out of range {interval}"


def inside(value: float, interval: str) -> bool:
    """Whether ``value`` lies in ``interval``, such as ``"(0, 1]"``; a text that is no interval allows every value.

    A whole number is compared as such: above 2**53 a float cannot represent every whole number.
    """
    parts = INTERVAL.fullmatch(interval.strip())
    if parts is None:
        return True
    left, low, high, right = parts.groups()
    above = value >= float(low) if left == "[" else value > float(low)
    below = value <= float(high) if right == "]" else value < float(high)
    return above and below


def _check_one_of(value: Any, hints: Sequence[Any], where: str) -> None:
    faults = []
    known = [hint for hint in hints if _is_plain(hint)]
    for hint in known if any(hint is not type(None) for hint in known) else hints:
        try:
            return check_value(value, hint, where)
        except ConfigError as fault:
            faults.append((hint is type(None), fault))
    raise min(faults, key=lambda pair: pair[0])[1]  # an error about null is the least helpful


def _is_plain(hint: Any) -> bool:
    return hint in KINDS or hint in (list, tuple, dict) or get_origin(hint) is not None


def _check_choice(value: Any, choices: Sequence[Any], where: str) -> None:
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        words = [choice if isinstance(choice, str) else show(choice) for choice in choices]
        meant = did_you_mean(str(value), words)
        raise ConfigError(where, f"{show(value)} is not one of {', '.join(words)}{meant}")


def _check_list(value: Any, hints: Sequence[Any], where: str) -> None:
    if not isinstance(value, list | tuple):  # tuples come only from Python; a config has none
        raise ConfigError(where, f"{show(value)} is not a list")
    fixed = len(hints) > 1 and hints[1] is not Ellipsis
    if fixed and len(value) != len(hints):
        raise ConfigError(where, f"{show(value)} has {len(value)} values, not {len(hints)}")
    for place, item in enumerate(value):
        check_value(item, hints[place] if fixed else hints[0], f"{where}[{place}]")
