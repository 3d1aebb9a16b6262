"""The last stage of a method, reached without training the stages before it."""

from __future__ import annotations

import resource
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from benching.loops import EPOCHS, RECIPE, begin, calibrate, composer, training_of
from benching.pairs import Pair
from kdrun.core.experiment import Experiment
from kdrun.core.rehearsal import Rehearsal
from kdrun.methods.base import AnyMethod
from kdrun.run.assembly import Assembly
from kdrun.train.loop import COSTS, one_epoch
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
        self.before = most_memory()
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

    def peak(self) -> int:
        """Returns the most memory that this process took so far beyond what it had at first."""
        return most_memory() - self.before


def most_memory() -> int:
    """Returns the most memory of this process so far, in the unit of the system."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
