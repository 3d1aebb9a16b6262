"""The teacher table: exact, shared, bounded, and never that of another teacher, of other data or other views."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import assembled, config, copied, experiment, same
from torch import Tensor, nn

from kdrun.config.compose import Composer
from kdrun.core import teacher_table
from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.core.teacher_table import BLOCK, Tables, budget_of, planned
from kdrun.data.splits import Data
from kdrun.errors import ConfigError, TrainingError
from kdrun.run.assembly import teach
from kdrun.run.run import run
from kdrun.store import files, table_file
from kdrun.train.stage import Batch
from kdrun.train.taps import Tapped, freeze

WORDS = ("student=mlp_16", "teacher=mlp_32", "epochs=2", "baseline=false", "dataset.flip=true", "dataset.crop=1")
VIEWS = 18


def trained(out: Path, *words: str, name: str = "run") -> dict[str, Any]:
    """The student's costs and weights after a run."""
    summary = run(config(out, *WORDS, *words), out / name, [])
    return {**summary["models"]["student"], "weights": (out / name / "student.safetensors").read_bytes()}


def files_of(out: Path) -> list[Path]:
    return sorted((out / "models" / "tables").glob("*.table"))


def answers(exp: Experiment, epochs: int = 1, name: str = "distill") -> Iterator[tuple[Batch, Tensor]]:
    """Every batch of the first epochs, and the teacher's logits for it as the stage gets them."""
    stream = exp.stream(name, exp.recipe.batch_size)
    for number in range(1, epochs + 1):
        for batch in stream.epoch(number):
            with torch.no_grad():
                yield batch, exp.recall(exp.teacher, batch).logits


@pytest.mark.parametrize("method", ["kd", "fitnets", "cosine", "wskd", "takd", "gan"])
def test_a_table_changes_no_bit_full_or_empty(method: str, tmp_path: Path) -> None:
    words = (f"method={method}", "dataset.train_count=103", "batch_size=20")
    live = trained(tmp_path, *words, "teacher.table=off", name="live")
    assert not files_of(tmp_path)
    filled, known = (trained(tmp_path, *words, name=name) for name in ("filled", "known"))
    assert live["weights"] == filled["weights"] == known["weights"]
    assert known["teacher_images_run"] < filled["teacher_images_run"]


def test_a_run_of_known_views_asks_nothing(tmp_path: Path) -> None:
    words = ("dataset.view_seed=7", "teacher.seed=5")
    first, second = (trained(tmp_path, *words, f"seed={seed}", name=f"{seed}") for seed in (0, 1))
    assert first["teacher_images_run"] > 0
    assert second["teacher_images_run"] == 0
    assert first["weights"] != second["weights"]


@pytest.mark.parametrize(
    ("flip", "crop", "views", "epochs"), [("false", 0, 1, 3), ("true", 0, 2, 8), ("true", 1, 18, 9)]
)
def test_the_images_asked_of_are_those_of_the_formula(
    flip: str, crop: int, views: int, epochs: int, tmp_path: Path
) -> None:
    words = (f"dataset.flip={flip}", f"dataset.crop={crop}", "dataset.train_count=24000", "batch_size=400")
    exp = experiment(tmp_path, *WORDS, *words)
    before, count = exp.teacher.run_count, exp.data.train.size
    for _ in answers(exp, epochs):
        pass
    passes = (exp.teacher.run_count - before) / count
    assert passes == pytest.approx(views * (1 - (1 - 1 / views) ** epochs), rel=0.02)


@pytest.mark.parametrize("teacher", ["mlp_32", "mlp_30"])  # a product with 30 columns treats some rows in another way
def test_a_row_does_not_depend_on_who_asked_first(teacher: str, tmp_path: Path) -> None:
    asks = [("seed=1", "batch_size=7"), ("seed=2", "batch_size=31"), ("seed=3", "batch_size=64")]
    contents = []
    for place, order in (("a", asks), ("b", asks[::-1])):
        for words in order:
            base = [word for word in WORDS if not word.startswith("teacher=")]
            words = (*words, f"teacher={teacher}", "dataset.train_count=200")
            for _ in answers(experiment(tmp_path / place, *base, *words), 2):
                pass
        (path,) = files_of(tmp_path / place)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


def test_a_subset_and_all_images_share_a_table(tmp_path: Path) -> None:
    subset = experiment(tmp_path, *WORDS, "dataset.train_count=300", "dataset.train_size=100", "dataset.view_seed=1")
    known = {}
    for batch, logits in answers(subset):
        known |= dict(zip(batch.index.tolist(), logits, strict=True))
    whole = experiment(tmp_path, *WORDS, "dataset.train_count=300", "dataset.view_seed=1")
    before = whole.teacher.run_count
    for batch, logits in answers(whole):
        with torch.no_grad():
            assert torch.allclose(logits, whole.teacher(batch.images).logits, atol=1e-6)
            whole.teacher.count(-len(batch.images), -len(batch.images))
        assert all(
            torch.equal(known.get(place, row), row) for place, row in zip(batch.index.tolist(), logits, strict=True)
        )
    assert len(files_of(tmp_path)) == 1
    assert whole.teacher.run_count - before < whole.data.train.size - 100 + 2 * BLOCK["cpu"]


def test_each_missing_row_is_computed_once_at_its_place() -> None:
    draw = np.random.default_rng(0)
    index, missing = draw.permutation(100), np.sort(draw.permutation(60)[:37])
    plan, needed = planned(missing, index, 8)
    assert sorted(plan[plan >= 0].tolist()) == missing.tolist()
    blocks, places = np.nonzero(plan >= 0)
    rows = plan[blocks, places]
    assert (index[rows] % 8 == places).all()
    for row in range(60):
        assert needed[row] == max([0, *(block + 1 for block, other in zip(blocks, rows, strict=True) if other <= row)])


OTHERS = {
    "teacher": ("teacher=mlp_100",),
    "weights": ("teacher.seed=3",),
    "data": ("dataset.train_count=91",),
    "flip": ("dataset.flip=false",),
    "crop": ("dataset.crop=2",),
    "pad_to": ("dataset.pad_to=14",),
    "mean": ("dataset.mean=[0.4]",),
    "precision": ("precision=bf16",),
    "type": ("teacher.table_precision=fp16",),
    "taps": ("method=cosine",),
}


@pytest.mark.parametrize("words", OTHERS.values(), ids=OTHERS)
def test_what_differs_has_a_table_of_its_own(words: tuple[str, ...], tmp_path: Path) -> None:
    for extra in ((), words):
        keys = {word.partition("=")[0] for word in extra}
        base = [word for word in WORDS if word.partition("=")[0] not in keys]
        for _ in answers(experiment(tmp_path, *base, *extra)):
            pass
    assert len(files_of(tmp_path)) == 2


def test_a_renormalized_teacher_has_a_table_of_its_own(tmp_path: Path) -> None:
    trained(tmp_path, "method=scratch", "student=mlp_32", name="brought")
    checkpoint = f"teacher.checkpoint={tmp_path / 'brought'}"
    for words in ((), ("teacher.mean=[0.1]", "teacher.std=[0.9]")):
        for _ in answers(experiment(tmp_path, *WORDS, checkpoint, *words)):
            pass
    assert len(files_of(tmp_path)) == 2


def test_the_weights_count_and_not_the_way_to_them(tmp_path: Path) -> None:
    exp = experiment(tmp_path, *WORDS)
    for _ in answers(exp):
        pass
    assert exp.teacher.folder is not None
    external = experiment(tmp_path, *WORDS, f"teacher.checkpoint={exp.teacher.folder}")
    before = external.teacher.run_count
    for _ in answers(external):
        pass
    assert external.teacher.run_count == before


@pytest.mark.parametrize("place", [table_file.HEADER + 3, table_file.HEADER + 42, -5, -47])
def test_a_flipped_bit_is_found_and_computed_anew(place: int, tmp_path: Path) -> None:
    words = ("dataset.flip=false", "dataset.crop=0")
    first = trained(tmp_path, *words, "seed=1", name="first")
    (path,) = files_of(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(bytes(content))
    lines: list[str] = []
    pieces = assembled(config(tmp_path, *WORDS, *words, "seed=1"), lines.append)
    exp = teach(pieces.on(Data.read(pieces.exp.data.source)), pieces.teacher)
    for batch, logits in answers(exp):
        with torch.no_grad():
            assert torch.equal(logits, exp.teacher(batch.images).logits)
    held = place // 48 in {int(index) for index in exp.data.train_places.index}
    assert any("1 damaged rows" in line for line in lines) or not held
    assert trained(tmp_path, *words, "seed=1", name="again")["weights"] == first["weights"]


@pytest.mark.parametrize("size", [0, 100, table_file.HEADER, table_file.HEADER + 48])
def test_a_table_that_is_cut_short_is_begun_anew(size: int, tmp_path: Path) -> None:
    first = trained(tmp_path, name="first")
    (path,) = files_of(tmp_path)
    os.truncate(path, size)
    again = trained(tmp_path, name="again")
    assert again["weights"] == first["weights"]
    assert again["teacher_images_run"] == first["teacher_images_run"]


def noticed(out: Path, *words: str) -> list[str]:
    """The lines on the teacher table of a run, which ends well."""
    lines: list[str] = []
    pieces = assembled(config(out, *WORDS, *words), lines.append)
    exp = teach(pieces.on(Data.read(pieces.exp.data.source)), pieces.teacher)
    for batch, logits in answers(exp):
        with torch.no_grad():
            assert torch.equal(logits, exp.teacher(batch.images).logits)
    assert all("\n" not in line for line in lines)
    return [line for line in lines if "table" in line]


def test_a_table_says_what_it_keeps_in_one_line(tmp_path: Path) -> None:
    (line,) = noticed(tmp_path)
    (path,) = files_of(tmp_path)
    size = path.stat().st_size
    assert f"mlp_32's outputs for {VIEWS} views of 90 images are kept, at most {size / 1000:.3g} KB, in {path}" in line
    assert size == table_file.HEADER + VIEWS * 90 * 48
    assert noticed(tmp_path) == []  # the next job of a sweep


def test_too_small_a_budget_leaves_the_teacher_live(tmp_path: Path) -> None:
    (line,) = noticed(tmp_path, "teacher.table=40KB")
    assert "teacher table: off, mlp_32's outputs for 18 views of 90 images take 81.9 KB" in line
    assert line.endswith("more than the 40 KB of teacher.table=40KB; mlp_32 is run on every batch")
    assert not files_of(tmp_path)


def test_the_tables_of_a_store_share_its_budget(tmp_path: Path) -> None:
    assert "are kept" in noticed(tmp_path, "teacher.table=100KB")[0]
    (line,) = noticed(tmp_path, "teacher.table=100KB", "teacher.seed=1")
    assert "take 81.9 KB, and the others 81.9 KB, more than the 100 KB" in line
    assert len(files_of(tmp_path)) == 1


def test_auto_takes_a_tenth_of_the_free_disk_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_table, "free_bytes", lambda folder: 800_000)
    (line,) = noticed(tmp_path)
    assert "more than a tenth of the 800 KB of free disk" in line
    assert "are kept" in noticed(tmp_path, "teacher.table=1MB")[0]


def test_a_full_disk_is_said_once_and_changes_no_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    kept, failed = noticed(tmp_path)
    assert "are kept" in kept
    assert "cannot be written (No space left on device); what it lacks is computed in every run" in failed


def test_a_read_only_store_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **more: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    noticed(tmp_path, "teacher.table=off")  # trains the teacher
    monkeypatch.setattr(files.tempfile, "mkstemp", refused)
    (line,) = noticed(tmp_path)
    assert "cannot be used (Read-only file system); mlp_32 is run on every batch" in line


@pytest.mark.parametrize("value", ["2", "2gb", "-1GB", "big", "GB", "1.GB", "nan", "[1]", "1e3MB"])
def test_a_nonsense_budget_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^teacher\.table: "):
        config(tmp_path, *WORDS, f"teacher.table={value}")


def test_off_is_a_word_in_yaml_too(tmp_path: Path) -> None:
    place = tmp_path / "conf" / "experiment" / "mine.yaml"
    place.parent.mkdir(parents=True)
    place.write_text("# @package _global_\n# Mine\nteacher: {table: off}\n")
    composed = Composer(tmp_path / "conf").compose(["experiment=mine"])
    assert composed["teacher"]["table"] == "off"


@pytest.mark.parametrize(("text", "count"), [("2GB", 2e9), ("1.5MB", 1.5e6), ("40KB", 4e4), ("1TB", 1e12)])
def test_a_budget_is_a_number_of_bytes(text: str, count: float) -> None:
    assert budget_of(text) == count


def test_half_precision_is_used_as_it_is_stored(tmp_path: Path) -> None:
    exp = experiment(tmp_path, *WORDS, "teacher.table_precision=fp16")
    for batch, logits in (*answers(exp), *answers(exp)):
        with torch.no_grad():
            assert torch.equal(logits, exp.teacher(batch.images).logits.half().float())


def test_half_precision_is_part_of_a_students_key(tmp_path: Path) -> None:
    keys = []
    for words in ((), ("teacher.table_precision=fp16",)):
        exp = experiment(tmp_path, *WORDS, *words)
        keys.append(exp.key_fields(exp.student_node, {"name": "kd"}, exp.teacher, exp.plan))
    assert keys[0] != keys[1]


def test_outputs_too_large_for_half_precision_are_refused(tmp_path: Path) -> None:
    exp = experiment(tmp_path, *WORDS, "teacher.table_precision=fp16")
    with torch.no_grad():
        next(reversed(list(exp.teacher.model.parameters()))).add_(1e6)
    with pytest.raises(TrainingError, match=r"^teacher\.table_precision: outputs of mlp_32 exceed 65504"):
        next(answers(exp))


class Neighbours(nn.Module):
    """A net whose output for an image depends on the other images of the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :10] + images.mean()


def tabled(exp: Experiment, net: nn.Module, lines: list[str]) -> Experiment:
    """The experiment with ``net`` as its teacher, and the lines on its table."""
    teacher = Trained(freeze(Tapped(net)), "net", "key", {})
    return replace(exp, tables=Tables(exp.tables.folder, lines.append)).taught_by(teacher)


def test_outputs_that_depend_on_their_neighbours_are_named(tmp_path: Path) -> None:
    lines: list[str] = []
    for _ in answers(tabled(experiment(tmp_path, *WORDS), Neighbours(), lines)):
        pass
    assert sum("depend on the other images of a block on this device" in line for line in lines) == 1


def test_a_net_whose_code_is_in_no_file_has_no_table(tmp_path: Path) -> None:
    space: dict[str, Any] = {"nn": nn, "__name__": "nowhere"}
    exec("class Net(nn.Module):\n    def forward(self, images):\n        return images.flatten(1)[:, :10]", space)
    lines: list[str] = []
    for _ in answers(tabled(experiment(tmp_path, *WORDS), space["Net"](), lines)):
        pass
    assert "the code of net is in no file; net is run on every batch" in lines[0]
    assert not files_of(tmp_path)


def test_a_large_set_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole", "epochs=3")
    monkeypatch.setattr(teacher_table, "CHUNK", 40 * 40)
    assert trained(tmp_path / "chunks", "epochs=3")["weights"] == whole["weights"]


def test_the_views_of_a_view_seed_are_those_of_all_runs(tmp_path: Path) -> None:
    words = (*WORDS, "dataset.view_seed=4", "dataset.train_count=200")
    seen: list[dict[tuple[int, int], int]] = []
    for more, name in (
        (("seed=0",), "distill"),
        (("seed=5", "batch_size=7"), "hint"),
        (("dataset.train_size=40",), "a"),
    ):
        exp = experiment(tmp_path, *words, *more)
        batches = [batch for batch, _ in answers(exp, 2, name)]
        rows = [
            (batch.epoch, *row)
            for batch in batches
            for row in zip(batch.index.tolist(), batch.view.tolist(), strict=True)
        ]
        seen.append({(epoch, index): view for epoch, index, view in rows})
    assert seen[0] == seen[1]
    assert seen[2].items() <= seen[0].items()
    assert len(seen[2]) == 2 * 40
    assert len({seen[0][1, index] for _, index in seen[0]}) == VIEWS
    assert any(seen[0][1, index] != seen[0][2, index] for _, index in seen[0])


def test_a_view_seed_is_part_of_a_trained_models_key(tmp_path: Path) -> None:
    fields = []
    for words in ((), ("dataset.view_seed=0",), ("dataset.view_seed=1",)):
        exp = experiment(tmp_path, *WORDS, *words)
        fields.append(json.dumps(exp.key_fields(exp.student_node, {"name": "kd"}, exp.teacher, exp.plan)))
    assert len(set(fields)) == 3


def test_a_method_may_change_what_it_is_given(tmp_path: Path) -> None:
    exp = experiment(tmp_path, *WORDS)
    for batch, logits in answers(exp, 2):
        before = logits.clone()
        logits.zero_()
        assert torch.equal(exp.recall(exp.teacher, batch).logits, before)


def test_the_teacher_is_the_same_after_its_table_is_filled(tmp_path: Path) -> None:
    exp = experiment(tmp_path, *WORDS)
    before = copied(exp.teacher.model)
    for _ in answers(exp, 2):
        pass
    assert same(before, copied(exp.teacher.model))


def test_rows_half_written_are_missing(tmp_path: Path) -> None:
    file = table_file.TableFile(tmp_path / "a.table", {"a": 1}, 5, 3, np.dtype("float32"))
    numbers = np.arange(6, dtype="float32").reshape(2, 3)
    file.write(np.array([1, 4]), numbers)
    content = bytearray((tmp_path / "a.table").read_bytes())
    content[-9:] = bytes(9)  # the last number's last byte, and the checksum
    (tmp_path / "a.table").write_bytes(bytes(content))
    again = table_file.TableFile(tmp_path / "a.table", {"a": 1}, 5, 3, np.dtype("float32"))
    rows, valid = again.read(np.arange(5))
    assert valid.tolist() == [False, True, False, False, False]
    assert np.array_equal(rows[1], numbers[0])


@pytest.mark.parametrize("bit", range(0, 8 * 12, 7))
def test_every_flipped_bit_of_a_row_is_found(bit: int, tmp_path: Path) -> None:
    file = table_file.TableFile(tmp_path / "a.table", {}, 2, 1, np.dtype("float32"))
    file.write(np.array([0, 1]), np.array([[1.5], [-2.5]], dtype="float32"))
    content = bytearray((tmp_path / "a.table").read_bytes())
    content[table_file.HEADER + bit // 8] ^= 1 << bit % 8
    (tmp_path / "a.table").write_bytes(bytes(content))
    again = table_file.TableFile(tmp_path / "a.table", {}, 2, 1, np.dtype("float32"))
    assert again.read(np.arange(2))[1].tolist() == [False, True]
    assert again.damaged == 1


def test_a_row_at_another_rows_place_is_not_valid(tmp_path: Path) -> None:
    file = table_file.TableFile(tmp_path / "a.table", {}, 2, 1, np.dtype("float32"))
    file.write(np.array([0]), np.array([[1.5]], dtype="float32"))
    content = bytearray((tmp_path / "a.table").read_bytes())
    content[-12:] = content[-24:-12]
    (tmp_path / "a.table").write_bytes(bytes(content))
    again = table_file.TableFile(tmp_path / "a.table", {}, 2, 1, np.dtype("float32"))
    assert again.read(np.arange(2))[1].tolist() == [True, False]
