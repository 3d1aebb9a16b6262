"""Named points at which a test can stop the process, as a power cut or a scheduler would."""

from __future__ import annotations

import os
import signal
from collections import Counter
from functools import cache


class Fault:
    """One planned fault, written ``ACTION@POINT:COUNT`` in ``KDRUN_FAULT``.

    It sends its signal when the process passes POINT for the COUNT-th time: ``kill@write:3`` is a power cut before the
    third file is written, ``term@cnn by scratch/distill:17`` a scheduler's signal after 17 steps of that stage.
    """

    actions = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}

    def __init__(self, plan: str) -> None:
        action, _, place = plan.partition("@")
        self.point, _, count = place.rpartition(":")
        self.signal, self.count = self.actions[action], int(count)
        self.passed: Counter[str] = Counter()

    def passing(self, point: str) -> None:
        self.passed[point] += 1
        if point == self.point and self.passed[point] == self.count:
            os.kill(os.getpid(), self.signal)


@cache
def planned() -> Fault | None:
    """Returns the fault that the environment plans; None unless ``KDRUN_TESTING`` is set too."""
    plan = os.environ.get("KDRUN_FAULT")
    return Fault(plan) if plan and os.environ.get("KDRUN_TESTING") else None


def point(name: str) -> None:
    """Marks a place where a fault may be planned; does nothing outside tests."""
    if fault := planned():
        fault.passing(name)
