"""Where and how a run computes: device, threads, precision, seeds, and the wish to stop."""

from __future__ import annotations

import hashlib
import os
import signal
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

import torch

from kdrun.errors import ConfigError, Interrupted


def derive(seed: int, *words: str | int) -> int:
    """Returns a 63-bit seed that depends on ``seed`` and on every one of ``words``, in order."""
    text = "\0".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


MODELS = 64
"""That a run may compile, twice each; torch counts those of all models together and gives up after 8."""


class Interrupt:
    """Remembers that a signal asked to stop, so that the step at hand can be finished and saved.

    A second signal quits at once. Use as a context manager, in the main thread.
    """

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.signum: int | None = None

    def check(self, where: str) -> None:
        """Raises Interrupted where a signal came; ``where`` is what was being done."""
        if self.signum is not None:
            raise Interrupted(self.signum, where)

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.signal(number, self._hear) for number in self.signals}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum


@dataclass
class Runtime:
    """The device side of one run.

    Args:
        device: where models and data live.
        precision: ``fp32``, or ``bf16`` for autocast in training; scores are always taken in fp32.
        threads: of one operation on the CPU; the last bits of a sum depend on it.
        compile: whether models are compiled before training; CUDA only, it gains nothing on a CPU.
        save_seconds: at most so much training is lost to a power cut; 0 saves after every step.
    """

    device: torch.device
    precision: str = "fp32"
    threads: int = 1
    compile: bool = False
    save_seconds: float = 10.0
    interrupt: Interrupt = field(default_factory=Interrupt)

    @classmethod
    def of(cls, config: dict[str, Any], interrupt: Interrupt) -> Runtime:
        """Returns the runtime that a run's config asks for.

        Raises:
            ConfigError: if the device is not there, or if ``compile`` is asked for without CUDA.
        """
        device = pick(config["device"])
        if config["compile"] and device.type != "cuda":
            raise ConfigError("compile", "true gains nothing on a CPU; leave it out, or use device=cuda")
        torch.set_num_threads(config["threads"])
        if config["compile"]:
            torch.compiler.config.recompile_limit = 2 * MODELS  # past it models run slower than if never compiled
        seconds = float(os.environ.get("KDRUN_SAVE_SECONDS", cls.save_seconds))
        return cls(device, config["precision"], config["threads"], config["compile"], seconds, interrupt)

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context in which losses are computed."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def environment(self) -> dict[str, Any]:
        """Returns what the last bits of a result may depend on."""
        return {
            "device": self.device.type,
            "threads": self.threads,
            "torch": str(torch.__version__),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }


def pick(name: str) -> torch.device:
    """Returns the device called ``name``; ``auto`` is CUDA where there is one.

    Raises:
        ConfigError: if that device is not present.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        there = f"{count} present" if count else "no CUDA device is present"
        raise ConfigError("device", f"{name} requested, {there}; use device=cpu or device=auto")
    return device


def generators() -> dict[str, Any]:
    """Returns the states of torch's global generators, as tensors."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_generators(states: dict[str, Any]) -> None:
    """Puts torch's global generators back into ``states``."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for place, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, place)


class drawn:
    """A context in which torch's global CPU generator starts from ``seed``; afterwards it is as it was before."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *args: object) -> None:
        torch.set_rng_state(self.state)
