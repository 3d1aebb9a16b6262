"""A signal ends at once what asks for none, and is never taken for a failure of what it ends."""

from __future__ import annotations

import os
import platform
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from data_makers import picture
from PIL import Image

from kdrun.data.folder import Folder
from kdrun.data.idx import MNIST
from kdrun.errors import Interrupted
from kdrun.train.runtime import Interrupt, Runtime, keep_freed_memory

SECONDS = 2.0
"""How long a signal may wait."""


@contextmanager
def signalled(number: int, after: float = 0.3) -> Iterator[None]:
    """Sends this process a signal, and holds the block to ending at it, in time."""
    sender = threading.Timer(after, os.kill, (os.getpid(), number))
    begun = time.monotonic()
    with Interrupt() as interrupt, pytest.raises(Interrupted) as caught, interrupt.at_once("reading the data"):
        sender.start()
        yield
    assert time.monotonic() - begun < after + SECONDS
    assert (caught.value.exit_code, caught.value.where) == (128 + number, "reading the data")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_does_not_ask_for_it(number: int) -> None:
    with signalled(number):
        time.sleep(20)


def test_an_error_that_a_signal_caused_is_not_the_reason() -> None:
    with signalled(signal.SIGTERM, 0.1):
        try:
            time.sleep(20)
        except Exception:
            raise ValueError("not a MATLAB file") from None


def test_a_signal_before_the_block_ends_it_before_it_begins() -> None:
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), interrupt.at_once("reading the data"):
            pytest.fail("the block has begun")


def test_outside_the_block_a_signal_waits_to_be_asked_for() -> None:
    with Interrupt() as interrupt:
        with interrupt.at_once("reading the data"):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.signum == signal.SIGTERM


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that is called and never answers, in place of MNIST's."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [f"http://127.0.0.1:{server.getsockname()[1]}/"])
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield


def test_a_signal_ends_a_download_that_hangs(silent: None, tmp_path: Path) -> None:
    with signalled(signal.SIGTERM, 1.0):
        MNIST(root=str(tmp_path / "data")).read()
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_a_wait_for_a_hosts_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unheard = threading.Event()

    def hang(*names: object, **settings: object) -> None:
        unheard.wait(20)

    monkeypatch.setattr("socket.getaddrinfo", hang)
    with signalled(signal.SIGTERM, 0.5):
        MNIST(root=str(tmp_path / "data")).read()
    unheard.set()


def test_a_signal_ends_the_decoding_of_a_large_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "dog"):
        for number in range(200):
            picture(tmp_path / name / f"{number}.png", np.zeros((8, 8, 3), dtype=np.uint8))
    load = Image.Image.load

    def slow(image: Image.Image) -> object:
        time.sleep(0.5)
        return load(image)

    monkeypatch.setattr("PIL.Image.Image.load", slow)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", slow)
    with signalled(signal.SIGINT):
        Folder(root=str(tmp_path), size=8).read()


def faults(count: int) -> int:
    """The page faults of ``count`` tensors of 40 MB, each filled and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(count):
        torch.empty(10 << 20).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_run_takes_freed_memory_again_without_a_page_fault() -> None:
    Runtime.of({"device": "cpu", "compile": False, "threads": 1, "precision": "fp32"}, Interrupt())
    faults(5)
    assert faults(20) < 20 * (40 << 20) // 4096 / 2


@pytest.mark.parametrize("library", [OSError("no library"), object()])
def test_where_there_is_no_glibc_memory_is_left_alone(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: object) -> object:
        if isinstance(library, OSError):
            raise library
        return library

    monkeypatch.setattr("kdrun.train.runtime.ctypes.CDLL", load)
    assert keep_freed_memory() is False


def test_settings_of_the_allocator_in_the_environment_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdrun.train.runtime.ctypes.CDLL", lambda name: pytest.fail("set"))
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    assert keep_freed_memory() is False
