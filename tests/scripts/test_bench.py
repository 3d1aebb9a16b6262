"""The bench compares loops that do the same, counts what it says it counts, and writes its own blocks alone."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import bench
import pytest
import torch
from benching import gpu, page, throughput, worker
from benching.everyone import Everyone
from benching.loops import Loop, Minimal, Ours
from benching.methods import classifying
from benching.pairs import CIFAR10, PAIRS, Pair, Shape
from benching.processes import FIRST_STEP, begin, end, spend
from benching.stages import LastStage
from benching.throughput import HEAD, measured, ratios, rows
from benching.timing import interleaved, ratio
from tiny import COMPOSER

from kdrun.config.places import CONF
from kdrun.methods.kd import KD
from kdrun.train.stage import Batch, Outputs

SMALL = Shape("cifar10", 3, 8, 10, 1, True, CIFAR10.mean, CIFAR10.std)
FLAT = Shape("mnist", 1, 12, 10, 0, False, (0.5,), (0.25,))
TINY = [Pair("resnet8", "resnet8", SMALL, 192), Pair("mlp_32", "mlp_16", FLAT, 192)]


@pytest.mark.parametrize("pair", TINY, ids=lambda pair: pair.name)
@pytest.mark.parametrize("table", ["off", "1GB"])
def test_the_bare_step_reaches_the_losses_of_the_loop(pair: Pair, table: str, tmp_path: Path) -> None:
    loop = Loop(pair, pair.images, tmp_path, (f"teacher.table={table}", "device=cpu"))
    minimal = Minimal(loop, is_known=table != "off")
    ours, theirs = ([each.epoch() for _ in range(3)] for each in (loop, minimal))
    assert theirs == pytest.approx(ours, rel=1e-3)
    assert len(set(ours)) == 3


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Ours:
    return Ours(TINY[1], TINY[1].images, ("fp32", "bf16"), tmp_path_factory.mktemp("ours"))


def test_a_known_pass_runs_the_teacher_on_nothing(ours: Ours) -> None:
    for name in ours.names():
        ours.seconds(name)
    before = ours.teacher_images_run()
    for name in ours.names():
        assert ours.seconds(name) > 0
    more = {name: count - before[name] for name, count in ours.teacher_images_run().items()}
    assert more == {"live fp32": 192, "known fp32": 0, "live bf16": 192, "known bf16": 0}


def test_bf16_is_another_arithmetic(ours: Ours) -> None:
    losses = {name: loop.epoch() for name, loop in ours.loops.items() if name.startswith("bare live")}
    assert losses["bare live fp32"] != losses["bare live bf16"]


def test_everyones_loss_is_that_of_kd() -> None:
    everyone = Everyone(TINY[1], 64)
    images, labels = next(iter(everyone.loader))
    with torch.no_grad():
        student, teacher = (Outputs(net.eval()(images), []) for net in (everyone.student, everyone.teacher))
        places = torch.arange(len(labels))
        terms = KD().loss(student, teacher, Batch(images, labels, places, places, 1))
    assert everyone.seconds() > 0  # one batch, of the same images in another order
    assert everyone.loss == pytest.approx(float(sum(terms.values())), rel=1e-4)


def test_everyones_loop_augments_as_the_data_set_does() -> None:
    everyone = Everyone(TINY[0], 64)
    crops = everyone.loader.dataset
    views = {crops[0][0].numpy().tobytes() for _ in range(400)}
    assert len(views) == 18
    assert crops[0][0].shape == (3, 8, 8)


SECONDS = {
    "everyone": [6.0, 12.0, 7.0],
    "live fp32": [3.0, 4.0, 7.0],
    "bare live fp32": [3.0, 2.0, 7.0],
    "known fp32": [1.0, 1.0, 1.0],
    "bare known fp32": [0.5, 0.25, 0.75],
}


def test_the_ratios_are_those_of_the_times() -> None:
    over_live, over_known, loop_live, loop_known = ratios(SECONDS, "fp32")
    assert over_live == (2.0, 1.0, 3.0)
    assert over_known == (7.0, 6.0, 12.0)
    assert loop_live == (1.0, 0.5, 1.0)
    assert loop_known == (0.5, 0.25, 0.75)


def test_a_row_prints_them_in_the_order_of_its_head() -> None:
    (row,) = rows(PAIRS[0], SECONDS)
    assert len(row) == len(HEAD)
    assert row[:4] == ["resnet56 > resnet20", "fp32", "2.00 [1.00-3.00]", "7.00 [6.00-12.00]"]


def test_rounds_alternate_after_a_run_that_does_not_count() -> None:
    calls: list[str] = []

    def loop(name: str) -> float:
        calls.append(name)
        return float(len(calls))

    seconds = interleaved({name: lambda name=name: loop(name) for name in "abc"}, 3)  # type: ignore[misc]
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert seconds == {"a": [4.0, 9.0, 10.0], "b": [5.0, 8.0, 11.0], "c": [6.0, 7.0, 12.0]}
    assert ratio(seconds["c"], seconds["a"]).low == 7 / 9


class InThisProcess:
    """A worker that is none: the object is in this process."""

    def __init__(self, module: str, name: str, **words: Any) -> None:
        self.served = getattr(import_module(module), name)(**words)

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def __call__(self, method: str, *arguments: Any) -> Any:
        return getattr(self.served, method)(*arguments)


def test_every_loop_of_a_pair_is_timed_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "Worker", InThisProcess)
    seconds = measured(TINY[1], 64, 2, ("fp32",))
    assert set(seconds) == set(SECONDS)
    assert all(len(each) == 2 and min(each) > 0 for each in seconds.values())


def test_a_worker_answers_until_a_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PRELOADED", [])
    with worker.Worker("benching.timing", "Ratio", median=2.0, low=1.0, high=3.0) as served:
        assert served("__str__") == "2.00 [1.00-3.00]"
        assert served.process.pid != os.getpid()
        with pytest.raises(worker.Failed, match="no_such"):
            served("no_such")


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"exit code 3\n.*lost"):
        spend([sys.executable, "-c", "import sys; print('lost', file=sys.stderr); sys.exit(3)"], tmp_path)


def test_the_cpu_time_of_a_process_has_that_of_its_children(tmp_path: Path) -> None:
    burn = "import time; began = time.process_time()\nwhile time.process_time() < began + 0.3: pass"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}])"
    assert end(begin([sys.executable, "-c", outer], tmp_path), tmp_path).seconds > 0.3


def test_the_first_step_of_the_digits_is_that_of_their_teacher() -> None:
    config = COMPOSER.compose(["dataset=digits"])
    assert config["teacher"]["checkpoint"] is None
    assert f"kill@{config['teacher']['name']} by scratch/distill:1" == FIRST_STEP


def test_the_last_stage_is_the_one_that_trains_the_student(tmp_path: Path) -> None:
    stage = LastStage(TINY[0], 64, ["method=fitnets"], tmp_path)
    before = [weight.clone() for weight in stage.stage.players["student"].parameters()]
    assert stage.seconds() > 0
    assert stage.stage_name() == "distill"
    moved = zip(before, stage.stage.players["student"].parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in moved)


def task_of(name: str) -> str:
    """The task of the class that a method's file, or the one that it builds on, names."""
    text = (CONF / "method" / f"{name}.yaml").read_text("utf-8")
    if target := re.search(r"^_target_: (.*)\.(\w+)$", text, re.MULTILINE):
        return str(getattr(import_module(target[1]), target[2]).task)
    base = re.search(r"^  - (\w+)$", text, re.MULTILINE)
    assert base is not None
    return task_of(base[1])


def test_a_step_with_a_hint_holds_more_than_one_of_kd(tmp_path: Path) -> None:
    held = {}
    for name in ("kd", "hint_joint"):
        stage = LastStage(TINY[0], 64, [f"method={name}"], tmp_path / name)
        stage.epoch()
        held[name] = stage.held()
        assert stage.held() == held[name]
    assert held["kd"] < held["hint_joint"]


def test_every_method_that_classifies_is_timed() -> None:
    tasks = {name: task_of(name) for name in COMPOSER.options.names("method")}
    assert set(classifying()) == {name for name, task in tasks.items() if task == "classification"}


def test_a_section_writes_between_its_own_markers_alone() -> None:
    text = "a\n<!-- bench start -->\nold\n<!-- end start -->\nb <!-- bench gpu -->\nkept\n<!-- end gpu -->"
    new = page.replaced(text, "start", "new")
    assert new == text.replace("old", "new")
    assert page.replaced(new, "start", "new") == new
    with pytest.raises(ValueError, match="bench sweep"):
        page.replaced(text, "sweep", "new")


def test_the_page_has_a_place_for_every_section() -> None:
    text = page.PAGE.read_text("utf-8")
    assert re.findall(r"<!-- bench (\w+) -->", text) == list(bench.SECTIONS)
    for name in bench.SECTIONS:
        assert page.replaced(text, name, "x") != text


def test_figures_of_a_quick_look_are_not_written(monkeypatch: pytest.MonkeyPatch, capsys: object) -> None:
    monkeypatch.setattr(sys, "argv", ["bench.py", "--quick", "--write"])
    with pytest.raises(SystemExit, match="2"):
        bench.main()


def test_240_epochs_are_extrapolated_from_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([45.0, 15.0])

    def wall(work: Callable[[], object]) -> float:
        work()
        return next(seconds)

    monkeypatch.setattr(gpu, "wall", wall)
    assert gpu.training(TINY[1], 64, "cpu") == ["mlp_32 > mlp_16", "3 h", "1 h"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_section_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "Worker", InThisProcess)
    assert list(bench.gpu_section(1, True)) == ["Not run: this machine has no GPU."]
