"""Sections 2 to 4: whole processes, from their start to their end: the first step, a sweep, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benching.pairs import LENET, RESNET20_8, RESNET56_8, Pair
from benching.timing import interleaved, ratio
from benching.worker import Worker

SCRIPTS = Path(__file__).resolve().parents[1]
KDRUN = [sys.executable, "-m", "kdrun"]
EVERYONE = [sys.executable, "-m", "benching.everyone"]
FIRST_STEP = "kill@cnn by scratch/distill:1"
"""Ends ``kdrun train`` after the first step of all: the teacher of the digits is trained first."""
KILLED = -9
TORCH_STEP = """\
import torch
layer = torch.nn.Linear(64, 10)
optimizer = torch.optim.Adam(layer.parameters())
layer(torch.zeros(64, 64)).sum().backward()
optimizer.step()
"""
JOBS = 8
AT_ONCE = 2
TESTS = 10_000
"""Test images of a job, as many as MNIST has."""


class Usage(NamedTuple):
    """What a process and its children took: CPU seconds, and the most memory of one of them in MB."""

    seconds: float
    peak: float


def begin(words: Sequence[str], cwd: Path, extra: Mapping[str, str] = {}) -> subprocess.Popen[bytes]:
    """Starts a process of one thread; what it says on stderr goes to a file beside its folder."""
    path = os.pathsep.join([str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **extra}
    with (cwd / "stderr.txt").open("ab") as err:
        return subprocess.Popen(words, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=err)


def end(process: subprocess.Popen[bytes], cwd: Path, code: int = 0) -> Usage:
    """Waits for a process and returns what it took.

    Raises:
        SystemExit: if its exit code is not ``code``.
    """
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != code:
        raise SystemExit(f"{process.args}: exit code {process.returncode}\n{(cwd / 'stderr.txt').read_text()[-2000:]}")
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return Usage(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit)


def spend(words: Sequence[str], cwd: Path, code: int = 0, extra: Mapping[str, str] = {}) -> Usage:
    """Runs a process to its end and returns what it took."""
    return end(begin(words, cwd, extra), cwd, code)


def start_up(rounds: int, quick: bool) -> list[list[str]]:
    """Returns the rows of section 2: CPU seconds to the first step of the optimizer, in processes of their own."""
    with TemporaryDirectory(prefix="bench-") as folder:
        cwd = Path(folder)
        fault = {"KDRUN_TESTING": "1", "KDRUN_FAULT": FIRST_STEP}
        train = [*KDRUN, "train", "dataset=digits", "device=cpu"]
        seconds = interleaved(
            {
                "torch": lambda: spend([sys.executable, "-c", TORCH_STEP], cwd).seconds,
                "kdrun": lambda: spend([*train, f"out=o{os.urandom(4).hex()}"], cwd, KILLED, fault).seconds,
            },
            rounds,
            warm_up=not quick,
        )
    torch, kdrun = (sorted(each)[len(each) // 2] for each in (seconds["torch"], seconds["kdrun"]))
    return [[f"{torch:.2f} s", f"{kdrun:.2f} s", str(ratio(seconds["kdrun"], seconds["torch"]))]]


class Job(NamedTuple):
    """A training of a pair in a process: kdrun's words and everyone's, which do the same."""

    pair: Pair
    images: int
    tests: int
    epochs: int
    weights: Path
    root: str | None  # the folder of the real data; None for random images

    def data(self) -> list[str]:
        """Returns kdrun's words for the data."""
        shape = self.pair.shape
        if not self.root:
            return shape.words(self.images, self.tests)
        return [f"dataset={shape.dataset}", f"dataset.train_size={self.images}", f"dataset.pad_to={shape.size}"]

    def kdrun(self) -> list[str]:
        pair = self.pair
        models = [f"teacher={pair.teacher}", f"student={pair.student}", f"teacher.checkpoint={self.weights}"]
        recipe = [f"epochs={self.epochs}", "batch_size=64", "optimizer=sgd", "optimizer.lr=0.01"]
        return [*self.data(), *models, *recipe, "method=kd", "baseline=false", "device=cpu"]

    def everyone(self, seed: int = 0) -> list[str]:
        models = ["--teacher", self.pair.teacher, "--student", self.pair.student, "--weights", str(self.weights)]
        counts = ["--images", str(self.images), "--epochs", str(self.epochs), "--seed", str(seed)]
        data = ["--root", self.root] if self.root else ["--tests", str(self.tests)]
        return [*EVERYONE, *models, *counts, *data]


def job(pair: Pair, folder: Path, images: int, tests: int, epochs: int, root: str | None = None) -> Job:
    """Returns a job, with the weights of its teacher written."""
    weights = folder / f"{pair.teacher}.safetensors"
    with Worker("benching.loops", "Teachers") as teachers:
        teachers("write", pair, weights)
    return Job(pair, images, tests, epochs, weights, root)


def sweep(quick: bool) -> Iterator[list[str]]:
    """Yields the rows of section 3: CPU seconds of a sweep of kdrun and of as many processes of everyone's loop."""
    with TemporaryDirectory(prefix="bench-") as folder:
        if quick:
            yield from swept(job(LENET, Path(folder), 640, 200, 1), [], 2)
            return
        root = os.environ.get("KDRUN_DATA")
        yield from swept(job(LENET, Path(folder), 6400, TESTS, 2, root), [], JOBS)
        yield from swept(job(RESNET56_8, Path(folder), 640, 200, 2), ["dataset.view_seed=0"], JOBS)


def swept(job: Job, words: list[str], jobs: int) -> Iterator[list[str]]:
    """Yields a row for each way in which kdrun runs the sweep."""
    cwd = job.weights.parent
    theirs = at_once([job.everyone(seed) for seed in range(jobs)], cwd)
    of = "MNIST's" if job.root else "random"
    what = f"{jobs} x {job.pair.name}, {job.images:,} {of} images x {job.epochs} epochs"
    base = [*KDRUN, "-m", *job.kdrun(), *words, f"seed={','.join(map(str, range(jobs)))}"]
    launchers = {"serial": [], "joblib": ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={AT_ONCE}"]}
    for name, launcher in launchers.items():
        row = [" ".join([what, *words]), name]
        if name == "joblib" and not has_joblib():
            yield [*row, "not installed", f"{theirs:.1f} s", ""]
            continue
        own = spend([*base, *launcher, f"out={name}-{job.pair.student}"], cwd).seconds
        yield [*row, f"{own:.1f} s", f"{theirs:.1f} s", f"{theirs / own:.2f}"]


def has_joblib() -> bool:
    """Returns whether the launcher that runs jobs in several processes is installed."""
    try:
        return bool(version("hydra-joblib-launcher"))
    except PackageNotFoundError:
        return False


def at_once(commands: list[list[str]], cwd: Path) -> float:
    """Returns the CPU seconds of processes that are run ``AT_ONCE`` at a time."""
    seconds = 0.0
    for low in range(0, len(commands), AT_ONCE):
        started = [begin(command, cwd) for command in commands[low : low + AT_ONCE]]
        seconds += sum(end(process, cwd).seconds for process in started)
    return seconds


def memory(quick: bool) -> list[list[str]]:
    """Returns the row of section 4: the most memory of a training, of kdrun and of everyone's loop."""
    with TemporaryDirectory(prefix="bench-") as folder:
        cwd = Path(folder)
        one = job(RESNET20_8, cwd, 128 if quick else 640, 200, 1)
        own, theirs = spend([*KDRUN, "train", *one.kdrun()], cwd).peak, spend(one.everyone(), cwd).peak
    return [[one.pair.name, f"{own:.0f} MB", f"{theirs:.0f} MB", f"{own / theirs:.2f}"]]
