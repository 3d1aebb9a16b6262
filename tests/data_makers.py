"""Makes the files that data sets are read from, and says what reading them complains of."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdrun.errors import KdrunError

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def complaint(read: Callable[[], object]) -> str:
    """The one line of the error that ``read`` raises."""
    with pytest.raises(KdrunError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@contextmanager
def within(megabytes: int) -> Iterator[None]:
    """Holds a block to taking no more memory than this at any moment."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    yield
    assert resident("VmHWM") - before < megabytes


def resident(field: str) -> float:
    """The memory of this process, in MB: now (VmRSS), or at most (VmHWM)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1000


def lay(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def idx_files(train: int = 30, test: int = 10) -> dict[str, bytes]:
    draw = np.random.default_rng(0)
    files = {}
    for count, images, labels in ((train, IMAGES, LABELS), (test, TEST_IMAGES, TEST_LABELS)):
        files[images] = idx(draw.integers(0, 256, (count, 28, 28)))
        files[labels] = idx(np.arange(count) % 10)
    return files


def batch(count: int, start: int = 0, protocol: int = 2, **changes: Any) -> bytes:
    """A CIFAR-10 batch."""
    draw = np.random.default_rng(start)
    content = {
        "data": draw.integers(0, 256, (count, 3072), dtype=np.uint8),
        "labels": [(start + place) % 10 for place in range(count)],
        "filenames": ["a.png"] * count,
    }
    return pickle.dumps({**content, **changes}, protocol=protocol)


def cifar_files(**changes: bytes) -> dict[str, bytes]:
    files = {f"data_batch_{number}": batch(10, number) for number in range(1, 6)}
    meta = pickle.dumps({"label_names": list("abcdefghij"), "num_vis": 3072}, protocol=2)
    return {**files, "test_batch": batch(10), "batches.meta": meta, **changes}


def picture(path: Path, array: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path
