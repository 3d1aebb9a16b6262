"""kdrun's own loop on a pair, and its bare step: the same arithmetic on ready-made batches, without anything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benching.pairs import Pair
from kdrun.config.compose import Composer
from kdrun.core.experiment import Experiment
from kdrun.core.models import Trained
from kdrun.data.splits import Data
from kdrun.report.display import Display
from kdrun.run.assembly import Assembly, assemble
from kdrun.store import weights
from kdrun.store.checkpoint import journals
from kdrun.store.record import Record
from kdrun.train.loop import Clock, Training, one_epoch
from kdrun.train.runtime import Interrupt, Runtime
from kdrun.train.stage import Stage
from kdrun.train.taps import Tapped, freeze

RECIPE = ["optimizer=sgd", "optimizer.lr=0.01", "batch_size=64", "teacher.recipe.batch_size=64", "baseline=false"]
"""What a step costs does not depend on it, but for the batch; the rate is low enough for untrained teachers."""

EPOCHS = 1_000_000
"""So many that no pass is the last of its stage."""

TABLE = "8GB"
"""The budget of a table in a pass of which everything is known."""


class Loop:
    """kdrun's loop over the first epoch of a pair's training, as often as it is called: stream, stage, record.

    The teacher is untrained, its BatchNorm has the statistics of the images. Nothing is scored.

    Args:
        pair: the pair; its images are random.
        images: the images of an epoch.
        out: a folder of its own.
        words: further words of the run.
    """

    def __init__(self, pair: Pair, images: int, out: Path, words: Sequence[str] = ()) -> None:
        names = (f"teacher={pair.teacher}", f"student={pair.student}", f"out={out}")
        self.config = composer().compose([*pair.shape.words(images, 100), *names, *RECIPE, *words])
        self.exp, assembly = begin(self.config)
        if assembly.teacher:
            self.exp = self.exp.taught_by(teacher_of(assembly, self.exp))
        stage = next(self.exp.method(self.config["method"]).stages(self.exp))
        self.stage = replace(stage, evaluate=None, select=None, epochs=EPOCHS)
        self.training, self.record, self.clock = training_of(self.stage, self.exp, out / "run")

    def epoch(self) -> float:
        """Trains for one epoch; returns the mean loss."""
        self.training.epoch, self.training.step = 1, 0  # always the same views: after the first pass all are known
        one_epoch(self.training, self.clock.journal, self.clock)
        return sum(value for name, value in self.record.rows[-1].items() if name.startswith("loss/"))

    @property
    def teacher_images_run(self) -> int:
        """How many images the teacher has been run on."""
        return self.exp.teacher.run_count


@cache
def composer() -> Composer:
    """Returns the composer of this process, which reads each file once."""
    return Composer()


def begin(config: dict[str, Any]) -> tuple[Experiment, Assembly]:
    """Returns the experiment of a config, with its data and without its teacher, and its parts."""
    display = Display()
    assembly = assemble(config, Runtime.of(config, Interrupt()), display.listen, display.notice)
    data = Data.read(assembly.exp.data.source)
    return assembly.on(data.to(assembly.exp.runtime.device)), assembly


def teacher_of(assembly: Assembly, exp: Experiment) -> Trained:
    """Returns the untrained teacher, its BatchNorm with the statistics of the training images."""
    net = exp.initialised(assembly.teacher, exp.teacher_plan.seed, "teacher")
    calibrate(net, exp)
    return Trained(freeze(net), assembly.teacher["name"], "untrained", {})


def calibrate(net: Tapped, exp: Experiment) -> None:
    """Gives the BatchNorm layers of ``net`` the statistics of the first batches."""
    net.train()
    for _, batch in zip(range(4), exp.stream("calibration", min(64, exp.data.subset.size)).epoch(1), strict=False):
        with torch.no_grad():
            net.model(batch.images)


def training_of(stage: Stage, exp: Experiment, folder: Path) -> tuple[Training, Record, Clock]:
    """Returns a training of ``stage`` before its first step, its record and its clock."""
    record = Record(folder, "bench", exp.listen)
    training = Training.begin(stage, exp.recipe, exp.runtime)
    return training, record, Clock(training, journals(record, {})(1, stage, ""))


class Minimal:
    """The bare step of a loop: batches and the optimizer's fused kernel, no stream, no record, no totals.

    Args:
        loop: the loop whose first epoch it repeats, from the same initial weights.
        is_known: whether the teacher's logits are there beforehand; else the teacher is run in every step.
    """

    def __init__(self, loop: Loop, is_known: bool) -> None:
        exp, self.method = loop.exp, loop.config["method"]
        self.autocast: Callable[[], AbstractContextManager[Any]] = exp.runtime.autocast
        self.student, self.teacher = deepcopy(exp.student.model), exp.teacher.model.model
        group = loop.training.optimizers[0].param_groups[0]
        settings = {name: group[name] for name in ("lr", "momentum", "weight_decay")}
        self.optimizer = torch.optim.SGD(self.student.parameters(), **settings, fused=True)
        is_last = getattr(self.student, "channels_last", False)
        form = torch.channels_last if is_last else torch.contiguous_format
        batches = [(batch.images.contiguous(memory_format=form), batch.targets) for batch in loop.stage.stream.epoch(1)]
        self.batches = [(images, labels, self._logits(images) if is_known else None) for images, labels in batches]

    def epoch(self) -> float:
        """Trains on all batches; returns the mean loss."""
        self.student.train()
        losses = [self.step(*batch) for batch in self.batches]
        return float(torch.stack(losses).mean())

    def step(self, images: Tensor, labels: Tensor, known: Tensor | None) -> Tensor:
        """Takes one step of Hinton's distillation; returns the loss, on the device."""
        with self.autocast():
            wanted = self._logits(images) if known is None else known
            loss = self._loss(self.student(images), wanted, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        with self.autocast():
            return self.teacher(images)

    def _loss(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        temperature, weight = self.method["temperature"], self.method["kd_weight"]
        softened = (F.log_softmax(logits / temperature, 1) for logits in (student, teacher))
        soft = F.kl_div(*softened, reduction="batchmean", log_target=True)
        return self.method["ce_weight"] * F.cross_entropy(student, labels) + weight * temperature**2 * soft


class Ours:
    """kdrun's loops and their bare steps for one pair, by name: ``live fp32``, ``bare known bf16`` and so on.

    Live, the teacher is run in every step; known, its table has all rows.

    Args:
        pair: the pair.
        images: the images of an epoch.
        precisions: those to run in, ``fp32`` and ``bf16``.
        folder: for records and tables.
    """

    def __init__(self, pair: Pair, images: int, precisions: Sequence[str], folder: Path) -> None:
        self.loops: dict[str, Loop | Minimal] = {}
        for precision in precisions:
            for kind, table in (("live", "off"), ("known", TABLE)):
                words = (f"precision={precision}", f"teacher.table={table}", "device=cpu", "threads=1")
                loop = Loop(pair, images, folder / f"{kind}-{precision}", words)
                self.loops[f"bare {kind} {precision}"] = Minimal(loop, kind == "known")
                self.loops[f"{kind} {precision}"] = loop

    def names(self) -> list[str]:
        return list(self.loops)

    def seconds(self, name: str) -> float:
        """Returns the CPU seconds of one epoch of a loop."""
        began = time.process_time()
        self.loops[name].epoch()
        return time.process_time() - began

    def teacher_images_run(self) -> dict[str, int]:
        """Returns how many images the teacher of each of kdrun's loops was run on so far."""
        return {name: loop.teacher_images_run for name, loop in self.loops.items() if isinstance(loop, Loop)}


class Teachers:
    """Writes the weights of untrained teachers."""

    def write(self, pair: Pair, path: Path) -> None:
        """Writes the weights of the teacher of ``pair`` to ``path``."""
        with TemporaryDirectory() as folder:
            net: nn.Module = Loop(pair, 256, Path(folder)).exp.teacher.model.model
        weights.write(path, net)
