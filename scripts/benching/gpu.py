"""Section 6: kdrun on a GPU: images a second, waits for the device, the time of a whole training."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benching.loops import Loop, Minimal
from benching.methods import words_of
from benching.pairs import CIFAR100, RESNET20_8, Pair
from benching.stages import LastStage
from kdrun.train.loop import one_step

PAIRS = [
    Pair("resnet56", "resnet8", CIFAR100, 0),
    Pair("resnet56", "resnet20", CIFAR100, 0),
    Pair("wrn_40_2", "wrn_16_2", CIFAR100, 0),
]
BATCHES = (64, 128, 1024)
STEPS = 40
"""Steps of a timed pass."""
PASSES = 3
TRAIN_IMAGES = 45_000
"""Training images of CIFAR-100 beside a tenth for validation."""
EPOCHS = 240
"""Epochs of a student in the CRD benchmark."""
WARM_UPS = 3


class Graphed:
    """The bare step as a CUDA graph that is replayed: no Python and no launches between the kernels.

    Args:
        minimal: the bare step; its batches are of one size.
    """

    def __init__(self, minimal: Minimal) -> None:
        self.minimal, self.batch = minimal, tuple(part.clone() for part in minimal.batches[0] if part is not None)
        minimal.student.train()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # makes the optimizer's state, which a capture must not
            for _ in range(WARM_UPS):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        minimal.optimizer.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()

    def epoch(self) -> None:
        """Trains on all batches."""
        for batch in self.minimal.batches:
            for place, part in zip(self.batch, batch, strict=False):
                place.copy_(part)
            self.graph.replay()

    def _step(self) -> None:
        images, labels = self.batch
        self.minimal.step(images, labels, None)


class Gpu:
    """What is measured on the GPU; a process without one has none of it."""

    def __init__(self, quick: bool) -> None:
        self.pairs, self.batches = (PAIRS[:1], BATCHES[:1]) if quick else (PAIRS, BATCHES)

    def name(self) -> str | None:
        """Returns the name of the device; None if there is none."""
        return torch.cuda.get_device_name() if torch.cuda.is_available() else None

    def speeds(self) -> list[list[str]]:
        """Returns a row for each student and batch size: images a second, and kdrun compiled over the graphed step."""
        return [row(pair, batch) for pair in self.pairs for batch in self.batches]

    def syncs(self, names: Sequence[str]) -> list[list[str]]:
        """Returns a row for each method whose steps wait for the device: where they do, or why it could not be run."""
        each = ([f"`{name}`", waits(name)] for name in names)
        return [row for row in each if row[1]]

    def tables(self, names: Sequence[str]) -> list[tuple[str, list[str], list[list[str]]]]:
        """Returns title, head and rows of each table; ``names`` are the methods whose steps are watched."""
        heads = ["eager", "bare eager", "compile=true", "bare graphed", "compile=true / bare graphed"]
        return [
            ("Images a second, live teacher", ["pair", "batch", *heads], self.speeds()),
            ("Steps that wait for the device: all but these have 0 waits", ["method", "where"], self.syncs(names)),
            (f"{EPOCHS} epochs of CIFAR-100, extrapolated from one", ["pair", "live", "known"], self.trainings()),
        ]

    def trainings(self) -> list[list[str]]:
        """Returns a row for each student: the time of a training, extrapolated from one epoch."""
        return [training(pair) for pair in self.pairs]


def row(pair: Pair, batch: int) -> list[str]:
    """Returns the images a second of kdrun's loop and of its bare step, eager and graphed, with a live teacher."""
    count = batch * STEPS
    with TemporaryDirectory(prefix="bench-") as folder:
        words = (f"batch_size={batch}", "teacher.table=off", "device=cuda")
        eager = Loop(pair, count, Path(folder) / "eager", words)
        minimal = Minimal(eager, is_known=False)
        compiled = Loop(pair, count, Path(folder) / "compiled", (*words, "compile=true"))
        rates = [
            speed(passes, count) for passes in (eager.epoch, minimal.epoch, compiled.epoch, Graphed(minimal).epoch)
        ]
    share = f"{rates[2] / rates[3]:.2f}"
    return [pair.name, str(batch), *(f"{rate:,.0f}" for rate in rates), share]


def speed(epoch: Callable[[], object], images: int) -> float:
    """Returns the images a second of the fastest of some passes; the first, which may compile, does not count."""
    epoch()
    return images / min(wall(epoch) for _ in range(PASSES))


def wall(work: Callable[[], object]) -> float:
    """Returns the seconds until the device has done ``work``."""
    synchronize()
    began = time.monotonic()
    work()
    synchronize()
    return time.monotonic() - began


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def waits(name: str, device: str = "cuda") -> str:
    """Returns the line of kdrun in which a step of a method waits for the device; empty if none does."""
    with TemporaryDirectory(prefix="bench-") as folder:
        try:
            stage = LastStage(RESNET20_8, 256, words_of(name), Path(folder), device)
            stage.epoch()  # compiles kernels and makes the optimizer's state
            batch = next(iter(stage.stage.stream.epoch(1)))
        except Exception as error:
            return f"not run: {str(error).splitlines()[0]}"
        return first_wait(lambda: one_step(stage.training, batch))


def first_wait(work: Callable[[], object]) -> str:
    """Returns the line of kdrun in which ``work`` first waits for the device; empty if it does not."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        work()
        return ""
    except RuntimeError as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/kdrun/" in frame.filename]
        return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")


def training(pair: Pair, images: int = TRAIN_IMAGES, device: str = "cuda") -> list[str]:
    """Returns the hours of a training of a student with a live teacher and with all of its outputs known."""
    hours = []
    for table in ("off", "8GB"):
        with TemporaryDirectory(prefix="bench-") as folder:
            loop = scored(Loop(pair, images, Path(folder), (f"teacher.table={table}", f"device={device}")))
            loop.epoch()
            hours.append(wall(loop.epoch) * EPOCHS / 3600)
    return [pair.name, *(f"{each:.3g} h" for each in hours)]


def scored(loop: Loop) -> Loop:
    """Returns the loop with its validation after each epoch, as in a run."""
    student = loop.exp.student
    loop.training.stage = replace(loop.stage, evaluate=lambda: loop.exp.scores(student))
    return loop
