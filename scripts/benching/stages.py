"""The last stage of a method, reached without training the stages before it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from benching.loops import EPOCHS, RECIPE, begin, calibrate, composer, training_of
from benching.pairs import Pair
from kdrun.core.experiment import Experiment
from kdrun.core.rehearsal import Rehearsal
from kdrun.methods.base import AnyMethod
from kdrun.run.assembly import Assembly
from kdrun.train.loop import COSTS, one_epoch, one_step
from kdrun.train.stage import Stage


class LastStage:
    """The last stage of the method that ``words`` name, with an untrained teacher that is run in every step.

    Args:
        pair: teacher and student, where ``words`` name no others.
        images: the random images of an epoch.
        words: the method, and more words of the run.
        folder: for its record.
        device: the device.
    """

    def __init__(self, pair: Pair, images: int, words: list[str], folder: Path, device: str = "cpu") -> None:
        names = (f"teacher={pair.teacher}", f"student={pair.student}", f"out={folder}", f"device={device}")
        fixed = [*pair.shape.words(images, 100), *names, *RECIPE, "teacher.table=off"]
        keys = {word.partition("=")[0] for word in words}
        config = composer().compose([*(word for word in fixed if word.partition("=")[0] not in keys), *words])
        exp, assembly = begin(config)
        stage = last_stage(rehearsal_of(exp, assembly), assembly.method)
        self.stage = replace(stage, evaluate=None, select=None, epochs=EPOCHS)
        self.training, _, self.clock = training_of(self.stage, exp, folder / "run")

    def seconds(self) -> float:
        """Returns the CPU seconds of a step, the mean of an epoch."""
        began = time.process_time()
        self.epoch()
        return (time.process_time() - began) / len(self.stage.stream)

    def epoch(self) -> None:
        self.training.epoch, self.training.step = 1, 0
        one_epoch(self.training, self.clock.journal, self.clock)

    def stage_name(self) -> str:
        return self.stage.name

    def held(self) -> int:
        """Returns the bytes that a step holds: what it saves for its backward passes, weights, gradients, optimizers.

        All updates of the step count together. Unlike the memory of the process it is the same on every machine.
        """
        tensors: list[Tensor] = []

        def pack(tensor: Tensor) -> Tensor:
            tensors.append(tensor)  # held to the end, so that no other has its address
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            one_step(self.training, next(iter(self.stage.stream.epoch(1))))
        return size([*tensors, *self._state()])

    def _state(self) -> Iterator[Tensor]:
        yield from self.stage.modules.state_dict().values()
        yield from (each.grad for each in self.stage.modules.parameters() if each.grad is not None)
        for optimizer in self.training.optimizers:
            entries = (value for state in optimizer.state.values() for value in state.values())
            yield from (value for value in entries if isinstance(value, Tensor))


def size(tensors: Iterable[Tensor]) -> int:
    """Returns the bytes of the memory of ``tensors``, what several share once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def rehearsal_of(exp: Experiment, assembly: Assembly) -> Rehearsal:
    """Returns an experiment on the data of ``exp`` whose teachers and assistants are untrained models."""
    rehearsal = Rehearsal.of(exp, data=exp.data, plan=exp.plan, student=exp.student)
    if assembly.teacher is None:
        return rehearsal
    teacher = rehearsal.teacher_of(assembly.teacher)
    calibrate(teacher.model, exp)
    teacher.model.eval()
    return replace(rehearsal, teachers=(teacher,))


def last_stage(exp: Rehearsal, method: AnyMethod) -> Stage:
    """Returns the last stage of ``method``; what the stages before it would have trained is as it was initialised."""
    stages, stage, scores = deepcopy(method).stages(exp), None, None
    while True:
        try:
            stage = stages.send(scores)
        except StopIteration:
            assert stage is not None
            return stage
        scores = {**(stage.evaluate() if stage.evaluate else {}), "epoch": 1, **dict.fromkeys(COSTS, 0.0)}
