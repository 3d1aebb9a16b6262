from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import Batches, copied, same
from torch import nn

from kdrun.errors import InputError, InUseError, WriteError
from kdrun.store import files
from kdrun.store.checkpoint import StageJournal, journals
from kdrun.store.format import FORMAT
from kdrun.store.record import Record, read_rows, versions
from kdrun.train.stage import Stage


def hear(*event: Any) -> None:
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def record(folder: Path) -> Iterator[Record]:
    opened = Record(folder, "net", hear)
    yield opened
    opened.close()


def row(epoch: int, stage: str = "distill", **values: float) -> dict[str, Any]:
    return {"time": 1e9 + epoch, "stage": stage, "epoch": epoch, "seconds": 0.5, **values}


def events(folder: Path) -> EventAccumulator:
    """What TensorBoard shows of the one run in ``folder``."""
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(folder).Scalars(tag)]


def test_rows_are_written_at_once(folder: Path, record: Record) -> None:
    rows = [row(epoch, **{"loss/ce": 1 / epoch}) for epoch in (1, 2, 3)]
    for one in rows:
        record.row(one)
    assert read_rows(folder / "metrics.jsonl") == rows


@pytest.mark.parametrize("kept", [1, 20, 60])
def test_a_last_row_cut_short_is_left_out(kept: int, folder: Path, record: Record) -> None:
    for epoch in (1, 2):
        record.row(row(epoch))
    text = (folder / "metrics.jsonl").read_text()
    first, second = text.splitlines()
    (folder / "metrics.jsonl").write_text(f"{first}\n{second[:kept]}")
    assert read_rows(folder / "metrics.jsonl") == [row(1)]


def test_a_record_goes_on_behind_a_row_that_was_cut_short(folder: Path, record: Record) -> None:
    record.row(row(1))
    record.close()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1, "st')
    again = Record(folder, "net", hear)
    again.restore([row(1)])
    again.row(row(2))
    again.close()
    assert read_rows(folder / "metrics.jsonl") == [row(1), row(2)]


def test_every_number_of_a_row_is_a_curve_of_its_stage(folder: Path, record: Record) -> None:
    record.row(row(1, "hint", **{"loss/hint": 0.5}))
    record.row(row(1, **{"loss/ce": 2.0, "val/top1": 0.25, "lr/0": 0.1}))
    record.row(row(2, **{"loss/ce": 1.0, "val/top1": 0.5, "lr/0": 0.1}))
    record.close()
    assert set(events(folder).Tags()["scalars"]) == {
        "hint/loss/hint",
        "hint/seconds",
        "distill/loss/ce",
        "distill/val/top1",
        "distill/lr/0",
        "distill/seconds",
    }
    assert points(folder, "distill/loss/ce") == [(1, 2.0), (2, 1.0)]
    assert [event.wall_time for event in events(folder).Scalars("distill/val/top1")] == [1e9 + 1, 1e9 + 2]


def test_after_a_resume_every_point_is_there_once(folder: Path, record: Record) -> None:
    for epoch in (1, 2, 3):
        record.row(row(epoch, loss=float(epoch)))
    record.close()
    again = Record(folder, "net", hear)
    again.restore([row(epoch, loss=float(epoch)) for epoch in (1, 2)])
    for epoch in (3, 4):
        again.row(row(epoch, loss=10.0 * epoch))
    again.close()
    assert points(folder, "distill/loss") == [(1, 1), (2, 2), (3, 30), (4, 40)]
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert [each["loss"] for each in read_rows(folder / "metrics.jsonl")] == [1, 2, 30, 40]


def test_rows_of_another_record_are_adopted_in_place_of_ones_own(folder: Path, record: Record, tmp_path: Path) -> None:
    other = Record(tmp_path / "other", "net", hear)
    for epoch in (1, 2):
        other.row(row(epoch, loss=5.0))
    other.close()
    record.row(row(1, "hint", loss=1.0))
    record.adopt(tmp_path / "other")
    record.close()
    assert read_rows(folder / "metrics.jsonl") == [row(1, loss=5.0), row(2, loss=5.0)]
    assert set(events(folder).Tags()["scalars"]) == {"distill/loss", "distill/seconds"}


def test_hyperparameters_stand_in_the_same_run_as_the_curves(folder: Path, record: Record) -> None:
    record.row(row(1, loss=1.0))
    record.hparams({"method": "kd", "seed": 0, "lr": 0.1, "fast": False}, {"top1": 0.75})
    record.close()
    summaries = events(folder)
    plugin = summaries.SummaryMetadata("_hparams_/session_start_info").plugin_data
    assert plugin.plugin_name == "hparams"
    assert b"method" in plugin.content
    assert b"kd" in plugin.content
    assert b"test/top1" in summaries.SummaryMetadata("_hparams_/experiment").plugin_data.content
    assert points(folder, "test/top1") == [(0, 0.75)]
    assert [path.name for path in folder.iterdir() if path.is_dir()] == []


def test_what_a_method_measured_is_in_tensorboard(folder: Path, record: Record) -> None:
    record.method_metrics({"classifier1/top1": 0.25, "critic_gap": -3.0})
    record.close()
    assert points(folder, "method/classifier1/top1") == [(0, 0.25)]
    assert points(folder, "method/critic_gap") == [(0, -3.0)]


def test_figures_images_and_text_are_kept(folder: Path, record: Record) -> None:
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([0, 1])
    record.figure("what/confusion", figure)
    record.images("samples", torch.rand(2, 3, 4, 4))
    record.text("config", "seed: 0")
    record.close()
    assert (folder / "figures" / "what-confusion.png").read_bytes().startswith(b"\x89PNG")
    tags = events(folder).Tags()
    assert Counter(tags["images"]) == Counter(["what/confusion", "samples"])
    assert b"seed: 0" in events(folder).Tensors("config/text_summary")[0].tensor_proto.string_val[0]


def test_facts_are_added_to_those_known(folder: Path, record: Record) -> None:
    record.about(status="running", seed=0)
    record.about(status="done")
    assert files.read_json(folder / "run.json") == {"status": "done", "seed": 0}


def test_the_config_comes_back_from_its_file(folder: Path, record: Record) -> None:
    from omegaconf import OmegaConf

    config = {"seed": 0, "method": {"_target_": "kdrun.methods.kd.KD", "names": ["a", "é"], "none": None, "lr": 1e-8}}
    record.config(config)
    assert OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")) == config


def test_a_folder_in_use_is_refused_at_once_and_left_as_it_is(folder: Path, record: Record) -> None:
    (folder / ".state.pt.x.tmp").write_bytes(b"being written")
    with pytest.raises(InUseError) as caught:
        Record(folder, "net", hear)
    assert str(caught.value) == f"{folder}: another process is working in this folder; wait for it to end"
    assert caught.value.exit_code == 5
    assert (folder / ".state.pt.x.tmp").exists()


def test_a_folder_in_use_is_refused_until_its_process_is_killed(folder: Path, tmp_path: Path) -> None:
    code = """
import sys, time, filelock
lock = filelock.FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
time.sleep(20)
"""
    folder.mkdir()
    command = [sys.executable, "-c", code, str(folder / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(InUseError):
            Record(folder, "net", hear)
        child.kill()
    Record(folder, "net", hear).close()


def test_opening_a_folder_tidies_what_a_killed_process_left(folder: Path) -> None:
    (folder / "stages").mkdir(parents=True)
    (folder / "stages" / ".01-hint.pt.x.tmp").write_bytes(b"half")
    Record(folder, "net", hear).close()
    assert list((folder / "stages").iterdir()) == []


def test_a_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match=r"file/run: cannot be written \("):
        Record(tmp_path / "file" / "run", "net", hear)


def test_the_versions_of_all_that_a_result_depends_on_are_known() -> None:
    known = versions()
    assert torch.__version__.startswith(known["torch"])
    assert known["python"] == sys.version.split()[0]
    assert set(known) >= {"kdrun", "torchvision", "numpy", "hydra-core", "scikit-learn", "git_commit"}


FIELDS = {"seed": 0, "recipe": {"epochs": 2, "batch_size": 8}}


COSTS = {"train_seconds": 1.0, "train_cpu_seconds": 1.0, "teacher_images": 0, "teacher_images_run": 0}


def net(seed: int) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


def stage(model: nn.Module, epochs: int = 2, name: str = "hint") -> Stage:
    return Stage(name, {"student": model}, [], Batches([]), epochs)


def journal(record: Record, model: nn.Module, after: str = "", **changes: Any) -> StageJournal:
    fields = changes.pop("fields", FIELDS)
    return journals(record, fields)(1, stage(model, **changes), after)


def state(epoch: int) -> dict[str, Any]:
    empty: dict[str, Any] = {"step": 0, "totals": {}, "counts": {}, "scores": {}, "best": None}
    return {**empty, "epoch": epoch, "modules": stage(net(0)).modules.state_dict()}


def test_a_finished_stage_gives_its_weights_and_scores_back(record: Record) -> None:
    first, second = net(0), net(1)
    scores = {"top1": 0.5, "epoch": 2, **COSTS}
    digest = journal(record, first).finish(scores)
    assert journal(record, second).finished() == (scores, digest)
    assert same(copied(first), copied(second))


@pytest.mark.parametrize("changes", [{"after": "another"}, {"epochs": 3}, {"name": "distill"}])
def test_a_changed_or_longer_stage_is_not_finished(changes: dict[str, Any], record: Record) -> None:
    journal(record, net(0)).finish({"top1": 0.5})
    model = net(1)
    assert journal(record, model, **changes).finished() is None
    assert same(copied(model), copied(net(1)))


def test_a_state_comes_back_with_the_rows_before_it(folder: Path, record: Record) -> None:
    for epoch in (1, 2):
        record.row(row(epoch))
    journal(record, net(0)).save(state(3))
    record.row(row(3))
    loaded = journal(record, net(0)).load()
    assert loaded is not None
    assert loaded["epoch"] == 3
    assert [each["epoch"] for each in read_rows(folder / "metrics.jsonl")] == [1, 2]


def test_a_state_behind_another_stage_is_passed_over(record: Record) -> None:
    journal(record, net(0), after="one").save(state(3))
    assert journal(record, net(0), after="other").load() is None


def test_a_state_of_another_format_is_refused_with_both_numbers(record: Record) -> None:
    files.save(record.destination(journal(record, net(0)).last), {"format": FORMAT + 1, "after": "", "rows": 0})
    with pytest.raises(InputError) as caught:
        journal(record, net(0)).load()
    line = f"01-hint.last.pt: has format {FORMAT + 1}, this kdrun reads {FORMAT}; start a new run"
    assert str(caught.value).endswith(line)


@pytest.mark.parametrize("which", ["path", "last"])
def test_a_damaged_stage_is_named(which: str, record: Record) -> None:
    damaged = journal(record, net(0))
    damaged.save(state(1))
    damaged.finish(COSTS)
    path: Path = getattr(damaged, which)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"01-hint\.(last\.)?pt: is damaged"):
        damaged.finished()
        damaged.load()


def test_a_row_names_its_time_and_stage_and_reaches_the_listener(folder: Path) -> None:
    events: list[Any] = []
    record = Record(folder, "net", lambda *event: events.append(event))
    under_way = journal(record, net(0))
    under_way.tick(0.25, 1)
    under_way.row({"epoch": 1, "loss/ce": 0.5})
    record.close()
    [line] = (folder / "metrics.jsonl").read_text().splitlines()
    written = json.loads(line)
    assert (written["stage"], written["epoch"], written["loss/ce"]) == ("hint", 1, 0.5)
    assert written["time"] > 1.7e9
    assert [event[:3] for event in events] == [("net", "hint", 0.25), ("net", "hint", 0.5)]
    assert (events[0][3], events[1][3]) == ({}, written)
