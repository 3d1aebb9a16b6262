"""Where and how a run computes: device, threads, precision, seeds, and signals that stop it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

import torch

from kdrun.errors import ConfigError, Interrupted, lacks_memory

OVERFLOW = re.compile("overflowed|Overflow when|too large to convert")
"""What torch says where a size is beyond any memory: it does not fit its integers."""


@contextmanager
def fits(where: str, what: str) -> Iterator[None]:
    """Turns a lack of memory in the block into an error of one line: ``what`` at ``where`` is too large.

    Raises:
        ConfigError: in place of the error of the allocation.
    """
    try:
        yield
    except (MemoryError, RuntimeError, TypeError, OverflowError) as error:
        if not (lacks_memory(error) or OVERFLOW.search(str(error))):
            raise
        raise ConfigError(where, f"{what} more memory than there is") from error


def derive(seed: int, *words: str | int) -> int:
    """Returns a 63-bit seed that depends on ``seed`` and on every one of ``words``, in order."""
    text = "\0".join(map(str, (seed, *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


MODELS = 64
"""How many models a run may compile, twice each. Torch counts the compilations of all models together and its default
limit is 8.
"""


class Interrupt:
    """Records a signal, so that the current step can be finished and saved before the process stops.

    A second signal ends the process at once. Use as a context manager, in the main thread.
    """

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.signum: int | None = None
        self._doing: str | None = None

    def check(self, where: str) -> None:
        """Raises Interrupted if a signal has arrived; ``where`` names what was being done."""
        if self.signum is not None:
            raise Interrupted(self.signum, where)

    @contextmanager
    def at_once(self, where: str) -> Iterator[None]:
        """Lets a signal end the block where it is, for work that asks for none, such as a download.

        The block must leave nothing half done behind when an exception ends it.

        Raises:
            Interrupted: if a signal has arrived, also if something in the block took it for an error of its own.
        """
        self._doing = where
        try:
            self.check(where)
            yield
        finally:
            self._doing = None
            self.check(where)

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
        if self._doing is not None:
            raise Interrupted(signum, self._doing)


@dataclass
class Runtime:
    """The device side of one run.

    Args:
        device: the device of models and data.
        precision: ``fp32``, or ``bf16`` for autocast in training; scores are always computed in fp32.
        threads: CPU threads per operation; the last bits of a sum depend on this number.
        compile: whether models are compiled before training; only on CUDA, since it gains nothing on a CPU.
        save_seconds: seconds between two saves, which a power cut can cost; 0 saves after every step.
        interrupt: records the signals that stop the run.
    """

    device: torch.device
    precision: str = "fp32"
    threads: int = 1
    compile: bool = False
    save_seconds: float = 10.0
    interrupt: Interrupt = field(default_factory=Interrupt)

    @classmethod
    def of(cls, config: dict[str, Any], interrupt: Interrupt) -> Runtime:
        """Returns the runtime that a run's config describes.

        Raises:
            ConfigError: if the device is not present, or ``compile`` is set without CUDA.
        """
        device = pick(config["device"])
        if config["compile"] and device.type != "cuda":
            raise ConfigError("compile", "true gains nothing on a CPU; leave it out, or use device=cuda")
        keep_freed_memory()
        torch.set_num_threads(config["threads"])
        if config["compile"]:
            torch.compiler.config.recompile_limit = 2 * MODELS  # beyond it, models are slower than without compiling
        seconds = float(os.environ.get("KDRUN_SAVE_SECONDS", cls.save_seconds))
        return cls(device, config["precision"], config["threads"], config["compile"], seconds, interrupt)

    def autocast(self) -> AbstractContextManager[Any]:
        """Returns the context in which losses are computed."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def environment(self) -> dict[str, Any]:
        """Returns the facts about this machine on which the last bits of a result may depend."""
        return {
            "device": self.device.type,
            "threads": self.threads,
            "torch": str(torch.__version__),
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }


def pick(name: str) -> torch.device:
    """Returns the device called ``name``; ``auto`` is CUDA if a CUDA device is present, else the CPU.

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


def has_bf16() -> bool:
    """Returns whether this CPU multiplies in bf16; one that does not is slower in it. False if torch cannot tell."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.10 has none
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""The numbers of two parameters of glibc's ``mallopt``."""


def keep_freed_memory() -> bool:
    """Has glibc keep freed memory for the next tensor, up to 1 GiB; returns whether it does.

    By default it gives tensors of more than some megabytes back to the system and takes them again in every step, and
    each of their pages costs a fault: up to a third of the time of a step, or of an evaluation. Nothing is changed
    without glibc, or where the environment sets its parameters.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    # glibc before 2.35 takes no threshold above 32 MiB for what it maps
    return any(mallopt(MMAP_THRESHOLD, most) for most in (1 << 30, 32 << 20)) and bool(mallopt(TRIM_THRESHOLD, 1 << 30))


def generators() -> dict[str, Any]:
    """Returns the states of torch's global generators, as tensors."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_generators(states: dict[str, Any]) -> None:
    """Sets torch's global generators to ``states``."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for place, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, place)


class seeded:
    """A context in which torch's global CPU generator starts from ``seed``; its old state is restored at the end."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()
        torch.manual_seed(self.seed)

    def __exit__(self, *args: object) -> None:
        torch.set_rng_state(self.state)
