"""docs/records.md lists every field that a run writes, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import config
from torch import nn

from kdrun import Scratch, distill
from kdrun.data.synthetic import Synthetic
from kdrun.errors import TrainingError
from kdrun.run.run import run
from kdrun.store.record import Record

PAGE = (Path(__file__).parents[2] / "docs" / "records.md").read_text("utf-8")
CHAIN = ("method=takd", "method.base=fitnets", "method.base.hint_epochs=1", "method.assistants=[mlp_32]")
PAIRS = (
    "dataset=synthetic_pairs",
    "dataset.size=64",
    "dataset.train_count=20",
    "dataset.test_count=6",
    "student=ae",
    "student.width=2",
    "teacher=none",
    "batch_size=4",
    "method=ae_cross",
)
FAILED = ("method=scratch", "teacher=none", "baseline=false", "optimizer=sgd", "optimizer.lr=1e30", "epochs=3")


def tables(text: str) -> dict[str, list[list[str]]]:
    """Returns the rows of the table of each section, the name of the field without its backticks."""
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")[1:]}
    rows = {name: re.findall(r"^\| `(.*)$", part, re.MULTILINE) for name, part in sections.items()}
    return {name: [row.replace("`", "", 1).strip(" |").split(" | ") for row in own] for name, own in rows.items()}


TABLES = tables(PAGE)


def pattern(field: str) -> str:
    """Returns what a field matches: words in capitals stand for any name."""
    return "".join(".+" if part.isupper() else re.escape(part) for part in re.split(r"([A-Z]{2,})", field))


def compare(section: str, objects: list[dict[str, Any]]) -> tuple[set[str], set[str]]:
    """Returns the fields of ``objects`` that ``section`` does not list, and what it lists and none of them has."""
    listed, used, missing = [row[0] for row in TABLES[section]], set(), set()

    def visit(path: str, value: Any) -> None:
        matches = [field for field in listed if re.fullmatch(pattern(field), path)]
        exact = [field for field in matches if field == path] or matches[:1]
        used.update(exact)
        if exact:
            return
        if isinstance(value, dict) and any(re.split(r"[.]", field)[0] == path for field in listed):
            for key, item in value.items():
                visit(f"{path}.{key}", item)
        else:
            missing.add(path)

    for value in objects:
        for key, item in value.items():
            visit(key, item)
    return missing, set(listed) - used


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The objects that each section of the page is about, of four runs: a chain, pairs, one that fails, a library's."""
    out = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "figure", lambda *args: None)
        for name, words in (("chain", CHAIN), ("pairs", PAIRS)):
            run(config(out, *words), out / name, list(words))
        with pytest.raises(TrainingError):
            run(config(out, *FAILED), out / "failed", list(FAILED))
        torch.manual_seed(0)
        net, data = nn.Sequential(nn.Flatten(), nn.Linear(144, 10)), Synthetic(train_count=90, test_count=30)
        distill(net, None, Scratch(), data, epochs=1, device="cpu", progress=False, folder=out / "mine")
    runs, summaries, manifests = (list(read(out, file)) for file in ("run.json", "summary.json", "manifest.json"))
    models = [
        model for summary in summaries for model in (*summary.get("models", {}).values(), *summary.get("chain", ()))
    ]
    stored = [json.loads(path.read_text("utf-8")) for path in sorted(out.glob("models/scores/*.json"))]
    teachers = [about["teacher"]["val"] for about in runs if "teacher" in about]
    return {
        "run.json": runs,
        "summary.json": summaries,
        "A model in summary.json": models,
        "manifest.json of a stored model": manifests,
        "Scores of a training": [*teachers, *(manifest["scores"] for manifest in manifests)],
        "What a model depends on": [*(each["fields"] for each in [*manifests, *runs] if "fields" in each)],
        "Scores of a stored model": stored,
        "What stored scores depend on": [each["fields"] for each in stored],
        "Environment": [each["environment"] for each in [*runs, *manifests]],
        "A row of metrics.jsonl": [
            json.loads(line) for path in out.rglob("metrics.jsonl") for line in path.read_text().splitlines()
        ],
    }


def read(out: Path, file: str) -> Iterator[dict[str, Any]]:
    for path in sorted(out.rglob(file)):
        yield json.loads(path.read_text("utf-8"))


@pytest.mark.parametrize("section", TABLES)
def test_the_fields_on_the_page_are_exactly_those_written(
    section: str, records: dict[str, list[dict[str, Any]]]
) -> None:
    assert compare(section, records[section]) == (set(), set())


def test_every_kind_of_record_has_its_table(records: dict[str, list[dict[str, Any]]]) -> None:
    assert set(TABLES) == set(records)
    assert all(records.values())


@pytest.mark.parametrize("section", TABLES)
def test_each_field_is_listed_once_with_unit_range_and_meaning(section: str) -> None:
    fields = [row[0] for row in TABLES[section]]
    assert len(fields) == len(set(fields)) > 0
    assert all(len(row) == 4 and all(row) for row in TABLES[section])


def test_an_undocumented_and_a_stale_field_are_noticed(records: dict[str, list[dict[str, Any]]]) -> None:
    summaries = records["summary.json"]
    assert compare("summary.json", [*summaries, {"extra": 1, "models": {"peer": {}}}]) == (
        {"extra", "models.peer"},
        set(),
    )
    without = [{key: value for key, value in summary.items() if key != "claims"} for summary in summaries]
    assert compare("summary.json", without) == (set(), {"claims"})
