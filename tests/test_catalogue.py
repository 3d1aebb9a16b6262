"""docs/methods.md is written by a script; here it is compared with what that would write now."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from tiny import COMPOSER

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "methods.md").read_text("utf-8")
METHODS = COMPOSER.options.names("method")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("catalogue", ROOT / "scripts" / "catalogue.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_writes(script: ModuleType) -> None:
    assert script.catalogue() == PAGE, "run: python scripts/catalogue.py"


@pytest.mark.parametrize("name", METHODS)
def test_the_page_shows_every_argument_with_its_value(name: str) -> None:
    (text,) = re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    section = next(part for part in PAGE.split("\n## ") if f"\n### {name}\n" in part)
    node = COMPOSER.compose([f"method={name}"])["method"]
    for key in set(node) - {"_target_", "name"}:
        assert f"| `{key}` |" in section, key
    assert "```sh\nkdrun " in text


@pytest.mark.parametrize("name", METHODS)
def test_every_section_names_its_source(name: str) -> None:
    section = next(part for part in PAGE.split("\n## ") if f"\n### {name}\n" in part)
    assert re.search(r"\b(19|20)\d\d\b|[Rr]eport \d|tutorial|Mandal|Szegedy|Zeng", section), name
