"""Each piece of a run is built once, and what a rehearsal goes through is what is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import assembled, config, copied, same
from torch import Tensor

import kdrun.config.build
from kdrun.config.build import Builder
from kdrun.core.experiment import Experiment
from kdrun.core.models import initialised
from kdrun.core.rehearsal import Rehearsal, StageSummary
from kdrun.data.splits import Data
from kdrun.errors import ConfigError, InputError
from kdrun.run.assembly import checkpoint, is_baseline, teach
from kdrun.run.run import run
from kdrun.store import files, weights
from kdrun.train.loop import fit
from kdrun.train.stage import Stage

WORDS = ("method=fitnets", "method.hint_epochs=1", "student=resnet8", "teacher=cnn", "epochs=1")

State = dict[str, Tensor]


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each class was built, nested nodes among them."""
    counts: Counter[str] = Counter()
    build = Builder.build

    def counted(self: Builder, node: dict[str, Any], *args: Any, **more: Any) -> Any:
        counts[node["_target_"].rpartition(".")[2]] += 1
        return build(self, node, *args, **more)

    monkeypatch.setattr(Builder, "build", counted)
    return counts


def test_student_and_method_of_a_run_are_built_once(builds: Counter[str], tmp_path: Path) -> None:
    pieces = assembled(config(tmp_path, *WORDS))
    pieces.summaries()
    exp = pieces.on(Data.read(pieces.exp.data.source))
    assert exp.student is pieces.exp.student
    assert (builds["ResNet"], builds["FitNets"], builds["Synthetic"]) == (1, 1, 1)


def test_a_whole_run_builds_its_models_and_its_method_once(builds: Counter[str], tmp_path: Path) -> None:
    words = [*WORDS, "baseline=false"]
    run(config(tmp_path, *words), tmp_path / "run", words)
    assert (builds["ResNet"], builds["CNN"], builds["FitNets"], builds["Synthetic"]) == (1, 1, 1, 1)


def test_a_run_builds_each_model_of_its_chain_once(builds: Counter[str], tmp_path: Path) -> None:
    words = ["method=takd", "method.assistants=[mlp_100,mlp_32]", "student=resnet8", "teacher=cnn", "baseline=false"]
    run(config(tmp_path, *words), tmp_path / "run", words)
    assert (builds["CNN"], builds["MLP"], builds["ResNet"]) == (1, 2, 1)
    run(config(tmp_path, *words), tmp_path / "again", words)  # its chain is in the store
    assert (builds["CNN"], builds["MLP"], builds["ResNet"]) == (2, 4, 2)


def test_no_node_of_a_run_is_checked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: Counter[str] = Counter()
    check_keys = kdrun.config.build._check_keys

    def counted(values: dict[str, Any], target: Callable[..., Any], where: str, supplied: Any) -> None:
        checks[repr((target, values))] += 1
        check_keys(values, target, where, supplied)

    monkeypatch.setattr(kdrun.config.build, "_check_keys", counted)
    run(config(tmp_path, *WORDS), tmp_path / "run", list(WORDS))
    assert set(checks.values()) == {1}


def test_a_rehearsal_leaves_every_bit_of_student_and_method(tmp_path: Path) -> None:
    pieces = assembled(config(tmp_path, *WORDS))
    student, method = copied(pieces.exp.student), copied(pieces.method)
    assert any(name.endswith("running_mean") for name in student)
    assert len(pieces.summaries()) == 3
    assert same(student, copied(pieces.exp.student))
    assert same(method, copied(pieces.method))
    assert pieces.exp.student.training
    assert all(weight.grad is None and weight.requires_grad for weight in pieces.exp.student.parameters())


def test_the_student_begins_as_its_seed_and_node_say(tmp_path: Path) -> None:
    pieces = assembled(config(tmp_path, *WORDS, "seed=3"))
    pieces.summaries()
    exp = pieces.exp
    again = initialised(exp.student_node, 3, exp.data.source, exp.runtime.device, exp.builder, "student", True)
    assert same(copied(exp.student), copied(again))
    other = initialised(exp.student_node, 4, exp.data.source, exp.runtime.device, exp.builder, "student", True)
    assert not same(copied(exp.student), copied(other))


def test_a_model_begins_alike_under_any_name_and_with_any_taps(tmp_path: Path) -> None:
    exp = assembled(config(tmp_path, *WORDS)).exp
    renamed = exp.initialised({**exp.student_node, "name": "other", "taps": ["layer1"]}, exp.plan.seed)
    assert renamed.taps == ["layer1"] != exp.student.taps
    assert same(copied(exp.student), copied(renamed))
    wider = exp.initialised({**exp.student_node, "width": 2 * exp.student_node["width"]}, exp.plan.seed)
    assert not same(copied(exp.student), copied(wider))


def test_a_teachers_batch_is_drawn_from_all_training_images(tmp_path: Path) -> None:
    small = ("method=kd", "dataset.train_size=20", "batch_size=16")  # of 81

    def on(size: int) -> Experiment:
        pieces = assembled(config(tmp_path, *small, f"teacher.recipe.batch_size={size}"))
        return pieces.on(Data.read(pieces.exp.data.source))

    assert (on(81).data.train.size, on(81).data.subset.size) == (81, 20)
    with pytest.raises(ConfigError, match=r"^teacher\.recipe\.batch_size: 82 exceeds the 81 training images"):
        on(82)


def test_a_teacher_that_just_reaches_stop_at_is_not_noted(tmp_path: Path) -> None:
    lines: list[str] = []

    def taught(stop_at: float) -> Experiment:
        whole = config(tmp_path, "method=kd", f"teacher.recipe.stop_at={stop_at!r}")
        pieces = assembled(whole, lines.append)
        return teach(pieces.on(Data.read(pieces.exp.data.source)), pieces.teacher)

    best = taught(1.0).teacher.scores["top1"]
    assert best < 1
    lines.clear()
    assert taught(best).teacher.scores["top1"] == best
    assert not any("stop_at" in line for line in lines)
    assert taught(best + 0.01).teacher.scores["top1"] == best
    assert any("without reaching teacher.recipe.stop_at" in line for line in lines)


@pytest.mark.parametrize(("method", "is_one"), [("scratch", True), ("tfkd_reg", False), ("kd", False)])
def test_only_a_training_from_scratch_is_the_baseline(method: str, is_one: bool, tmp_path: Path) -> None:
    whole = config(tmp_path, f"method={method}")
    pieces = assembled(whole)
    assert is_baseline(teach(pieces.on(Data.read(pieces.exp.data.source)), pieces.teacher), whole) == is_one


def test_what_was_rehearsed_and_what_is_trained_begin_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rehearsed: list[tuple[str, State]] = []
    trained: list[tuple[str, State]] = []
    summarize = Rehearsal._summary

    def watched_summary(self: Rehearsal, stage: Stage) -> StageSummary:
        rehearsed.append((stage.name, copied(stage.players["student"])))
        return summarize(self, stage)

    def watched_fit(stage: Stage, *rest: Any) -> Any:
        trained.append((stage.name, copied(stage.players["student"])))
        return fit(stage, *rest)

    monkeypatch.setattr(Rehearsal, "_summary", watched_summary)
    monkeypatch.setattr("kdrun.core.sequence.fit", watched_fit)
    words = [*WORDS, "baseline=false"]
    run(config(tmp_path, *words), tmp_path / "run", words)
    names = [[name for name, _ in stages] for stages in (rehearsed, trained)]
    assert names[0] == names[1] == ["distill", "hint", "distill"]  # the teacher's, then the student's
    for place in (0, 1):  # the third begins with what the hint stage has trained
        assert same(rehearsed[place][1], trained[place][1])


RECORDS = {"student.safetensors": "summary.json", "model.safetensors": "manifest.json"}


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_flipped_bit_of_an_external_teacher_is_refused(named: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "ran"
    digest = weights.write(files.folder(folder) / name, assembled(config(tmp_path, "method=kd")).exp.student.model)
    files.write_json(folder / RECORDS[name], {"files": {name: digest}})
    node = {"checkpoint": str(folder if named == "folder" else folder / name)}
    assert checkpoint(node) == folder / name
    data = bytearray((folder / name).read_bytes())
    for place in (40, len(data) // 2, len(data) - 1):
        data[place] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(InputError, match=r"^teacher\.checkpoint: .*safetensors is damaged \(its sha256 is not"):
            checkpoint(node)


def test_a_dry_run_too_checks_the_digest_of_the_teacher(tmp_path: Path) -> None:
    weights.write(
        files.folder(tmp_path / "ran") / "student.safetensors",
        assembled(config(tmp_path, "method=kd")).exp.student.model,
    )
    files.write_json(tmp_path / "ran/summary.json", {"files": {"student.safetensors": 64 * "0"}})
    with pytest.raises(InputError, match="sha256 is not the recorded one"):
        assembled(config(tmp_path, "method=kd", f"teacher.checkpoint={tmp_path / 'ran'}")).summaries()


def test_a_teacher_of_half_floats_is_reported_in_one_line(tmp_path: Path) -> None:
    pieces = assembled(config(tmp_path, "method=kd"))
    path = tmp_path / "t.safetensors"
    weights.write_state(path, {name: value.half() for name, value in pieces.exp.student.model.state_dict().items()})
    lines: list[str] = []
    pieces = assembled(config(tmp_path, "method=kd", f"teacher.checkpoint={path}"), lines.append)
    teach(pieces.on(Data.read(pieces.exp.data.source)), pieces.teacher)
    assert [line for line in lines if "float16" in line] == [
        f"teacher mlp_16: {path} has other types of numbers than the model, used: float16 as float32"
    ]
