"""What files and words may interpolate: other keys, and environment variables of kdrun's own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tiny import COMPOSER

from kdrun.config.compose import Composer
from kdrun.errors import ConfigError

REFUSED = [
    "${oc.env:HOME}",
    "${oc.env:HOME,x}",
    "${ oc.env : SECRET}",
    "x${oc.env:PATH}y",
    "${oc.env:${name}}",
    "${oc.env:KDRUN_DATA,${oc.env:HOME}}",
    "${${name}:HOME}",
    "${oc.decode:${oc.env:HOME}}",
    "${oc.decode:x}",
    "${oc.create:{a: 1}}",
    "${oc.deprecated:name}",
    "${oc.dict.keys:dataset}",
    "${oc.dict.values:dataset}",
    "${oc.select:name}",
    "${hydra:runtime.cwd}",
    "${now:%Y}",
    "${python_version:micro}",
]


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.parametrize("key", ["name", "out", "dataset.root", "teacher.checkpoint"])
def test_a_word_interpolates_nothing_of_the_machine(text: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    for word in (f"{key}={text}", f"{key}='{text}'", f'{key}="{text}"'):
        with pytest.raises(ConfigError) as refused:
            COMPOSER.compose(["dataset=mnist", word])
        assert refused.value.where == key
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.parametrize(
    "line", ["name: '{}'", "out: '{}'", "'{}': 1", "claims: {{a: ['{}']}}", "defaults: [{{override /method: '{}'}}]"]
)
def test_a_file_interpolates_nothing_of_the_machine(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "experiment/mine.yaml"
    path.parent.mkdir()
    path.write_text(f"# @package _global_\n{line.format(text)}\n")
    with pytest.raises(ConfigError) as refused:
        Composer(tmp_path).compose(["experiment=mine"])
    assert refused.value.where == str(path)


@pytest.mark.parametrize(
    "words",
    [
        ["name=${oc.env:KDRUN_DATA}"],
        ["name=a${oc.env:KDRUN_DATA,x}"],
        ["out=${oc.env:KDRUN_DATA,x}"],
        ["name=${dataset.root}"],
        ["out=${dataset.root}/x"],
        ["name=${out}", "out=${teacher.checkpoint}", "teacher.checkpoint=${dataset.root}"],
        ["name=${.out}", "out=${dataset[root]}"],
    ],
)
def test_no_variable_gets_into_the_name_of_a_folder(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDRUN_DATA", "hunter2")
    with pytest.raises(ConfigError, match="no environment variable gets into the name of a folder"):
        COMPOSER.compose(["dataset=mnist", *words])


def test_a_variable_of_kdrun_and_other_keys_are_interpolated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDRUN_DATA", "/my/data")
    config = COMPOSER.compose(["dataset=mnist", "name=${method.name}_${seed}", "out=runs/${dataset.name}"])
    assert str(config["dataset"]["root"]).startswith("/my/data")
    assert (config["name"], config["out"]) == ("kd_0", "runs/mnist")


LADDER = "claims:\n  a: xxxxxxxxxx\n" + "".join(
    f"  {b}: '{''.join(['${claims.' + a + '}'] * 9)}'\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
LISTS = "claims:\n  a: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    "  {}: [{}]\n".format(b, ", ".join(["'${claims." + a + "}'"] * 9))
    for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
CHAIN = "claims:\n" + "".join(f"  a{number}: ${{claims.a{number + 1}}}\n" for number in range(3000)) + "  a3000: 1\n"


@pytest.mark.parametrize(
    "text",
    [LADDER, LISTS, CHAIN, "name: ${out}\nout: ${name}\n", "name: ${name}\n", "claims: {a: '${claims}'}\n"],
    ids=["texts", "lists", "a chain", "a round", "itself", "its group"],
)
def test_interpolations_are_bounded_before_they_are_resolved(text: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(f"# @package _global_\n{text}")
    started = time.process_time()
    with pytest.raises(ConfigError, match=r"write more than|refers to itself|references away"):
        Composer(tmp_path).compose(["experiment=mine"])
    assert time.process_time() - started < 20
