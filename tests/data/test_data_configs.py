from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from kdrun.data.source import Source
from kdrun.errors import InputError

CONF = Path(__file__).parents[2] / "conf" / "dataset"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


def node(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def target(name: str) -> Any:
    module, _, kind = node(name)["_target_"].rpartition(".")
    return getattr(import_module(module), kind)


def test_every_data_set_that_is_promised_has_a_config() -> None:
    assert {"digits", "mnist", "fashionmnist", "notmnist", "svhn", "cifar10", "cifar100"} < set(NAMES)
    assert {"cityscapes", "synthetic", "synthetic_pairs", "folder"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_says_what_it_is_its_origin_and_how_to_run_it(name: str) -> None:
    first, blank, *rest = (CONF / f"{name}.yaml").read_text().splitlines()
    assert 20 < len(first) < 120 and first.startswith("# ")
    assert blank == "#"
    assert any(line.startswith("# Source: ") for line in rest)
    assert any(line.startswith(f"#   kdrun train dataset={name}") for line in rest)


@pytest.mark.parametrize("name", NAMES)
def test_a_config_holds_every_argument_at_its_default(name: str) -> None:
    values = {key: value for key, value in node(name).items() if key not in ("_target_", "root")}
    arguments = inspect.signature(target(name)).parameters
    assert {"root"} & set(node(name)) | set(values) == set(arguments)
    settings = {"classes": 3} if name == "folder" else {}
    source = target(name)(**settings)
    assert values == {key: getattr(source, key) for key in values} | ({"classes": 0} if settings else {})


@pytest.mark.parametrize("name", NAMES)
def test_a_source_misses_its_files_only_when_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {key: value for key, value in node(name).items() if key != "_target_"}
    if "root" not in settings:
        return
    settings |= {"root": str(tmp_path / "none")} | ({"classes": 3} if name == "folder" else {})
    source: Source = target(name)(**settings | ({"download": False} if "download" in settings else {}))
    with pytest.raises(InputError, match=r"^dataset\.root: ") as caught:
        source.read()
    assert str(tmp_path / "none") in str(caught.value)
    assert "\n" not in str(caught.value)
