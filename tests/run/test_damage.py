"""A file of a run folder or of the store that was cut, flipped or written by someone else is refused, or repaired."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tiny import config

from kdrun.cli import main
from kdrun.errors import InputError
from kdrun.run.run import run
from kdrun.store import files
from kdrun.store.model_store import verified
from kdrun.store.record import Record, read_rows
from kdrun.store.run_folder import read_about, read_run_config, sealed

WORDS = ("method=kd", "epochs=2")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("damage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Record, "figure", lambda *args: None)
        run(config(out, *WORDS), out / "run", list(WORDS))
    return out / "run"


@pytest.fixture
def folder(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, with the store beside it."""
    monkeypatch.setattr(Record, "figure", lambda *args: None)
    copytree(done.parent, tmp_path / "out")
    return tmp_path / "out" / "run"


def stored(folder: Path) -> Path:
    return min(folder.parent.glob("models/mlp_16-*"))


READERS: dict[str, Callable[[Path], Any]] = {
    "run/summary.json": lambda path: files.read_json(path),
    "run/run.json": lambda path: read_about(path.parent),
    "run/config.yaml": lambda path: read_run_config(path.parent),
    "run/metrics.jsonl": read_rows,
    "model/manifest.json": lambda path: verified(path.parent, key_of(path.parent)),
    "model/metrics.jsonl": read_rows,
    "model/model.safetensors": lambda path: verified(path.parent, key_of(path.parent)),
}


def key_of(model: Path) -> str:
    """The key of the one model whose folder has the name of ``model``, from the copy that is whole."""
    return str(files.read_json(model.parent / "whole.json")["key"])


def place(folder: Path, name: str) -> Path:
    kind, _, file = name.partition("/")
    model = stored(folder)
    whole = model.parent / "whole.json"
    if not whole.exists():
        whole.write_bytes((model / "manifest.json").read_bytes())
    return (folder if kind == "run" else model) / file


@pytest.mark.parametrize("name", READERS)
def test_no_flipped_bit_is_passed_over(name: str, folder: Path) -> None:
    path = place(folder, name)
    content, chance = path.read_bytes(), random.Random(0)
    for number in sorted({0, len(content) - 1, *chance.choices(range(len(content)), k=300)}):
        flipped = bytearray(content)
        flipped[number] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(InputError, match=rf"{path.name}.*\n?") as caught:
            READERS[name](path)
            pytest.fail(f"byte {number} of {len(content)}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_no_cut_is_passed_over(name: str, folder: Path) -> None:
    path = place(folder, name)
    content, chance = path.read_bytes(), random.Random(0)
    for length in sorted({0, 1, len(content) - 1, *chance.choices(range(len(content)), k=60)}):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=path.name):
            READERS[name](path)
            pytest.fail(f"{length} bytes of {len(content)}")


def test_rows_that_are_gone_are_missed(folder: Path) -> None:
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"metrics\.jsonl: no such file"):
        read_rows(folder / "metrics.jsonl")


@pytest.mark.parametrize("damage", ["last row", "all rows", "flip", "gone"])
def test_a_resume_writes_damaged_rows_anew(damage: str, folder: Path) -> None:
    path = folder / "metrics.jsonl"
    whole = path.read_bytes()
    cut = {"last row": whole.splitlines(keepends=True)[0], "all rows": b"", "flip": whole.replace(b"1", b"3", 1)}
    path.unlink() if damage == "gone" else path.write_bytes(cut[damage])
    run(config(folder.parent, *WORDS), folder, list(WORDS))
    assert path.read_bytes() == whole
    assert len(read_rows(path)) == 2


def resume(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a resume is refused as a faulty input."""
    assert main(["train", f"resume={folder}"]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "weights_only" not in error
    assert "Error" not in error
    return error


def write_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = read_run_config(folder)
    change(content)
    (folder / "config.yaml").write_bytes(sealed(OmegaConf.to_yaml(OmegaConf.create(content))))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.clear(),
        lambda config: config.pop("out"),
        lambda config: config.update(out=3),
        lambda config: config.update(teacher=[]),
        lambda config: config.pop("student"),
        lambda config: config.update(more=1),
    ],
)
def test_a_sealed_config_of_no_run_is_refused(
    change: Callable[[dict[str, Any]], Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(folder, change)
    assert "config.yaml: " in resume(folder, capsys)


@pytest.mark.parametrize("text", ["", "[1, 2]\n", "a: &a [*a]\n", "[" * 3000, "\x00\n", "a: !!python/name:os.system\n"])
def test_a_sealed_config_that_is_no_config_is_refused(
    text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "config.yaml").write_bytes(sealed(text))
    assert "config.yaml" in resume(folder, capsys)


def test_an_edited_config_is_refused_with_the_way_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 2", "epochs: 3"))
    line = (
        "is damaged or was edited (its last line is not the sha256 of the lines above); restore it, or start a new run"
    )
    assert resume(folder, capsys) == f"kdrun: error: {path}: {line}\n"


@pytest.mark.parametrize("change", [{"overrides": None}, {"overrides": 3}, {"environment": 3}, {"fields": [1]}])
def test_a_sealed_run_json_with_other_types_is_refused(
    change: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files.write_json(folder / "run.json", {**files.read_json(folder / "run.json"), **change})
    assert f"run.json: {next(iter(change))}: " in resume(folder, capsys)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"[" * 3000, b'{"a":' * 3000, b"3", b" " * (17 << 20)])
def test_a_run_json_that_is_none_is_refused(content: bytes, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run.json").write_bytes(content)
    assert "run.json: " in resume(folder, capsys)


def reseal(path: Path, payload: bytes) -> None:
    path.write_bytes(files.SEAL + sha256(payload).digest() + payload)


class Code:
    def __reduce__(self) -> Any:
        return print, ("this code ran",)


@pytest.mark.parametrize("payload", [b"", b"no archive", pickle.dumps(Code()), pickle.dumps({"after": 1}, 4)])
def test_a_sealed_stage_that_is_no_state_is_refused(
    payload: bytes, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reseal(folder / "stages" / "01-distill.pt", payload)
    assert "is no checkpoint of kdrun; delete it to train this stage anew" in resume(folder, capsys)


def test_a_stage_that_is_a_folder_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "stages" / "01-distill.pt"
    path.unlink()
    path.mkdir()
    assert "01-distill.pt: cannot be read (Is a directory)" in resume(folder, capsys)


@pytest.mark.parametrize(
    "change",
    [
        {"modules": {}},
        {"modules": 3},
        {"modules": {"student.model.fc.weight": torch.zeros(2, 2)}},
        {"after": None},
        {"rows": "["},
        {"rows": "[1]"},
        {"epochs": "2"},
        {"scores": None},
        {"scores": {"top1": 1.0}},
        {"format": None},
    ],
    ids=repr,
)
def test_a_sealed_state_that_does_not_fit_is_refused(
    change: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "stages" / "01-distill.pt"
    files.save(path, {**files.load(path)[0], **change})
    assert "01-distill.pt: " in resume(folder, capsys)


@pytest.mark.parametrize("kind", [torch.int8, torch.float64, torch.bool])
def test_weights_of_another_type_are_not_cast(kind: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "stages" / "01-distill.pt"
    state = files.load(path)[0]
    state["modules"] = {name: value.to(kind) for name, value in state["modules"].items()}
    files.save(path, state)
    assert "does not fit this stage (student.model." in resume(folder, capsys)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizers": []},
        {"optimizers": [3]},
        {"generators": None},
        {"totals": 3},
        {"best": 3},
        {"best": {}},
        {"epoch": "1"},
        {"totals": {"ce": 1}},
    ],
    ids=repr,
)
def test_a_sealed_state_in_training_that_does_not_fit_is_refused(
    change: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "stages" / "01-distill.pt").unlink()
    path = folder / "stages" / "01-distill.last.pt"
    files.save(path, {**files.load(path)[0], **change})
    assert "01-distill.last.pt: does not fit this stage" in resume(folder, capsys)


@pytest.mark.parametrize(
    "change",
    [{"files": 3}, {"files": {}}, {"scores": {"top1": "x"}}, {"environment": None}, {"key": "0"}, {"fields": {}}],
)
def test_a_sealed_manifest_of_another_kind_is_refused(
    change: dict[str, Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.parent.glob("models/*/manifest.json"):
        files.write_json(path, {**files.read_json(path), **change})
    assert "to train it anew" in resume(folder, capsys)


def test_another_seed_never_takes_over_a_stage(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(InputError, match=r"run: holds another run \(seed was 0, now 1\); choose another name="):
        run(config(folder.parent, *WORDS, "seed=1"), folder, [])
    assert {path: path.read_bytes() for path in before} == before


def test_a_stage_of_another_run_is_not_taken_over(folder: Path) -> None:
    out = folder.parent
    run(config(out, *WORDS, "seed=1"), out / "other", list(WORDS))
    for path in (folder / "stages").iterdir():
        (out / "other" / "stages" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"01-distill\.pt: is of another training .*; it is kept"):
        run(config(out, *WORDS, "seed=1"), out / "other", list(WORDS))


def test_other_data_under_the_same_config_are_refused(folder: Path) -> None:
    about = files.read_json(folder / "run.json")
    files.write_json(folder / "run.json", {**about, "fields": {**about["fields"], "data": "0" * 64}})
    with pytest.raises(InputError, match=r"run: holds another training \(another data\); choose another folder"):
        run(config(folder.parent, *WORDS), folder, list(WORDS))


def test_the_summary_knows_the_digest_of_the_weights(done: Path) -> None:
    known = files.read_json(done / "summary.json")["files"]
    assert set(known) == {"metrics.jsonl", "student.safetensors", "student-last.safetensors"}
    for name, digest in known.items():
        assert sha256((done / name).read_bytes()).hexdigest() == digest


def test_a_json_file_can_be_checked_by_hand(done: Path) -> None:
    text = (done / "summary.json").read_text()
    seal = json.loads(text)["seal"]
    assert sha256(text.replace(seal, "0" * 64).encode()).hexdigest() == seal


def test_a_damaged_summary_is_measured_anew(folder: Path) -> None:
    path = folder / "summary.json"
    whole = files.read_json(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"summary\.json: .*; resume the run to have it measured anew"):
        files.read_json(path)
    run(config(folder.parent, *WORDS), folder, list(WORDS))
    assert files.read_json(path) == whole


def test_an_optimizer_of_other_shapes_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "stages" / "01-distill.pt").unlink()
    path = folder / "stages" / "01-distill.last.pt"
    state = files.load(path)[0]
    for entries in state["optimizers"][0]["state"].values():
        entries["exp_avg"] = torch.zeros(3, 5)
    files.save(path, {**state, "epoch": 1})
    assert "01-distill.last.pt: does not fit this stage; delete it to train this stage anew" in resume(folder, capsys)
