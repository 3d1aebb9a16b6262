"""YAML from anywhere: what it may hold is bounded before it is expanded, and each refusal is one line."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from kdrun.config.places import CONF
from kdrun.config.yaml_text import BYTES, parse_yaml, read_yaml
from kdrun.errors import ConfigError

LEVELS = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + LEVELS
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 9)}]}}\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)

REFUSED: dict[str, tuple[str | bytes, str]] = {
    "five levels of nine aliases": ("\n".join(BOMB.splitlines()[:6]), "more than 10000 values"),
    "eight levels of nine aliases": (BOMB, "more than 10000 values"),
    "aliases as merged keys": (MERGES, "more than 10000 values"),
    "aliases in a key": ("a: &a [1]\n? *a\n: 1\n", "cannot be read as YAML"),
    "many values": ("a: [" + "0," * 200_000 + "0]", "more than 10000 values"),
    "deep brackets": ("a: " + "[" * 3000, "nested deeper"),
    "deep and closed": ("a: " + "[" * 3000 + "]" * 3000, "nested deeper"),
    "deep braces": ("{a: " * 3000, "nested deeper"),
    "deep lists in block style": ("a:\n" + "- " * 3000 + "1", "nested deeper"),
    "deep keys in block style": ("\n".join(" " * level + "a:" for level in range(900)), "nested deeper"),
    "deep through aliases": (
        "a: &a [[[[[[[[[[1]]]]]]]]]]\nb: &b [[[[[[[[[*a]]]]]]]]]\nc: [[[[[[[[[[[[[[[[*b]]]]]]]]]]]]]]]]",
        "deeper",
    ),
    "a list of itself": ("a: &a [*a]\n", "refers to what it is part of"),
    "a mapping of itself": ("&a\nb: 1\nc: {d: *a}\n", "refers to what it is part of"),
    "an unknown alias": ("a: *b\n", "undefined alias"),
    "a tag of Python": ("a: !!python/object/apply:os.system [true]\n", "a tag"),
    "a tag of a path": ("a: !!python/object/apply:pathlib.Path [x]\n", "a tag"),
    "a plain tag": ("a: !!str 3\n", "a tag"),
    "a tag on a mapping": ("a: !thing {b: 1}\n", "a tag"),
    "a binary": ("a: !!binary aGVsbG8=\n", "a tag"),
    "a key twice": ("a: 1\nb: 2\na: 3\n", "duplicate key a"),
    "a key twice inside": ("a: {b: 1, b: 1}\n", "duplicate key b"),
    "a whole number as key": ("a: {3: 1}\n", "the key 3 at a is not text"),
    "a number as key": ("1.5: 1\n", "the key 1.5 is not text"),
    "true as key": ("a: [{true: 1}]\n", "the key True at a.0 is not text"),
    "null as key": ("a: {null: 1}\n", "a key that is neither text nor a number"),
    "a list as key": ("? [a]\n: 1\n", "cannot be read as YAML"),
    "a number alone": ("3\n", "is not a mapping"),
    "a text alone": ("hello\n", "is not a mapping"),
    "an empty text alone": ("''\n", "is not a mapping"),
    "a list alone": ("- a: 1\n", "is not a mapping"),
    "two documents": ("a: 1\n---\na: 2\n", "several documents"),
    "not UTF-8": (b"a: \xff\xfe\n", "is not UTF-8"),
    "UTF-16": ("a: 1\n".encode("utf-16"), "is not UTF-8"),
    "a null byte": ("a: b\0c\n", "a control character"),
    "an escape": ("a: \x1b]0;x\n", "a control character"),
    "an escape, written out": ('a: "\\e]0;x"\n', "a control character"),
    "a null byte, written out": ('"a\\0": 1\n', "a control character"),
    "half a character": ('a: "\\uD800"\n', "a control character"),
    "half a character as text": ("a: \ud800\n", "a control character"),
    "a large text": ("# " + "x" * BYTES, "is larger than"),
    "a long value": ("a: " + "x" * 100_000, "too long"),
    "a long number": ("a: " + "9" * 4000, "too large"),
    "a long number to another base": ("a: 0x" + "f" * 4000, "too large"),
    "a long number of base sixty": ("a: 1" + ":1" * 2000, "too large"),
    "deep interpolations": ("a: " + "${" * 1000, "too long"),
    "an interpolation cut short": ("a: ${b\n", "cannot be read as YAML"),
    "a tab": ("a: 1\n\tb: 2\n", "cannot be read as YAML"),
    "a bracket left open": ("a: [1, 2\n", "cannot be read as YAML"),
    "a value without a type": ("a: =\n", "cannot be read as YAML"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_config_holds_is_refused_at_once(case: str) -> None:
    text, why = REFUSED[case]
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError) as refusal:
        parse_yaml(text, "my.yaml")
    assert why in str(refusal.value)
    assert str(refusal.value).startswith("my.yaml:")
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 200
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_a_line_is_named_where_it_is_known() -> None:
    with pytest.raises(ConfigError, match=r"^my\.yaml:3: "):
        parse_yaml("a: 1\nb: 2\nc: !!str x\n", "my.yaml")


TAKEN = {
    "a: 1e-3\nb: 1_000\nc: on\nd: 2001-01-01\n": {"a": 0.001, "b": 1000, "c": True, "d": "2001-01-01"},
    "a: &a {b: [1, 2]}\nc: *a\nd: {<<: *a, e: 1}\n": {
        "a": {"b": [1, 2]},
        "c": {"b": [1, 2]},
        "d": {"b": [1, 2], "e": 1},
    },
    "a: ${b}\nb: '${oc.env:KDRUN_DATA,data}'\n": {"a": "${b}", "b": "${oc.env:KDRUN_DATA,data}"},
    "": {},
    "# nothing\n": {},
    "null\n": {},
    "\ufeffa: 'ü'\n": {"a": "ü"},
    "'3': x\na: .inf\nb: null\nc: [{}, []]\n": {"3": "x", "a": float("inf"), "b": None, "c": [{}, []]},
}


@pytest.mark.parametrize("text", TAKEN)
def test_what_a_config_holds_is_plain_data(text: str) -> None:
    assert parse_yaml(text, "my.yaml") == parse_yaml(text.encode(), "my.yaml") == TAKEN[text]


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_file_is_read_as_omegaconf_reads_it(path: Path) -> None:
    from omegaconf import OmegaConf

    assert read_yaml(path) == OmegaConf.to_container(OmegaConf.load(path), resolve=False)


def test_a_pipe_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "my.yaml")
    with pytest.raises(ConfigError, match="is not a file"):
        read_yaml(tmp_path / "my.yaml")


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "my.yaml").open("wb") as file:
        file.truncate(20 << 30)  # a hole, which takes no room
    with pytest.raises(ConfigError, match="is larger than"):
        read_yaml(tmp_path / "my.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"my\.yaml: cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "my.yaml")
