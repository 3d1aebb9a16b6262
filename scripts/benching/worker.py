"""Objects in processes of their own, one at work at a time: what one sets for its process does not reach the other."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from importlib import import_module
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

PRELOADED = ["torch", "torchvision.transforms", "kdrun.run.run"]
"""Imported once, before the processes are forked; none of them computes anything there."""


def serve(pipe: Connection, module: str, name: str, words: dict[str, Any]) -> None:
    """Makes the object and answers calls of its methods until the pipe is closed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a run prints is not what is measured
    try:
        served = getattr(import_module(module), name)(**words)
        pipe.send((True, None))
        while True:
            method, arguments = pipe.recv()
            pipe.send((True, getattr(served, method)(*arguments)))
    except EOFError:
        pass
    except Exception:
        pipe.send((False, traceback.format_exc()))


class Failed(RuntimeError):
    """What went wrong in a worker; its text is the traceback there."""


class Worker:
    """An object of the class ``name`` of ``module``, made with ``words`` in a process of its own.

    Raises:
        Failed: if it cannot be made, or a call of it fails.
    """

    def __init__(self, module: str, name: str, **words: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, module, name, words), daemon=True)
        self.process.start()
        other.close()
        self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pipe.close()
        self.process.join()

    def __call__(self, method: str, *arguments: Any) -> Any:
        """Calls a method of the object and returns what it returns."""
        self.pipe.send((method, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            is_done, value = self.pipe.recv()
        except EOFError:
            raise Failed("the process has ended") from None
        if not is_done:
            raise Failed(value)
        return value
