"""MNIST and other data sets in its file format, idx."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from kdrun.data import raw
from kdrun.data.download import Fetch, ensure, torchvision
from kdrun.data.source import Source, Split, check
from kdrun.errors import InputError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

MAGIC = {3: "images", 1: "labels"}
"""The content of a file by its number of dimensions; its first four bytes are 0, 0, 8 (for uint8) and that number."""

LARGEST = 1 << 32
"""The most bytes that a header may announce; a larger number means a damaged file."""


def read_idx(path: Path, dimensions: int, md5: str | None = None) -> Tensor:
    """Returns the content of an idx file as uint8; the file may be compressed with gzip.

    Args:
        path: the path of the file.
        dimensions: 3 for images (N, H, W), 1 for labels (N,).
        md5: the md5 of the published file, uncompressed; None to accept any file.

    Raises:
        InputError: if the file is truncated, empty, no idx file, or not the published one.
    """
    with raw.opened(path) as file:
        head = raw.take(file, path, 4 + 4 * dimensions)
        shape = _shape(head, path, dimensions)
        count, most = math.prod(shape), raw.capacity(path) - len(head)
        body = raw.take(file, path, count + 1) if count <= most else None
    if body is None or len(body) < count:
        raise InputError(
            str(path), f"truncated ({_mb(most if body is None else len(body))} of {_mb(count)} MB); fetch it again"
        )
    if len(body) > count:
        raise InputError(str(path), "longer than its header says; fetch it again")
    raw.verify(path, head + body, md5)
    return torch.frombuffer(body, dtype=torch.uint8).view(shape)


def _shape(head: bytearray, path: Path, dimensions: int) -> tuple[int, ...]:
    stored = head[3] if len(head) > 3 and head[:3] == b"\0\0\x08" else None
    if stored in MAGIC and stored != dimensions:
        raise InputError(str(path), f"holds {MAGIC[stored]}, {MAGIC[dimensions]} expected; are two files swapped?")
    if stored != dimensions:
        raise InputError(str(path), f"not an idx file (magic 0x{head[:4].hex()}); fetch it again")
    if len(head) < 4 + 4 * dimensions:
        raise InputError(str(path), "truncated in its header; fetch it again")
    shape = struct.unpack(f">{dimensions}I", head[4:])
    if 0 in shape or math.prod(shape) > LARGEST:
        raise InputError(str(path), f"its header promises {' x '.join(map(str, shape))} values; fetch it again")
    return shape


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f}"


@dataclass(kw_only=True)
class Idx(Source):
    """Four idx files in torchvision's layout: ``root/<folder>/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte``.

    Args:
        root: the folder of all data sets.
    """

    root: str = "data"
    folder: ClassVar[str]
    instead: ClassVar[str] = ""
    """Other files that are accepted in place of the four, for the message of a missing file."""

    def read(self) -> tuple[Split, Split]:
        names = [*FILES, self.instead] if self.instead else list(FILES)
        ensure(Path(self.root), f"{self.folder}/raw", names, self.missing, self._fetch())
        return self._split(*FILES[:2]), self._split(*FILES[2:])

    def missing(self) -> list[str]:
        """Returns the names of the missing files."""
        return [f"{name}(.gz)" for name in FILES if raw.find(self._raw, name) is None]

    @property
    def _raw(self) -> Path:
        return Path(self.root) / self.folder / "raw"

    def _fetch(self) -> Fetch | None:
        return None

    def _md5(self, name: str) -> str | None:
        return None

    def _split(self, images: str, labels: str) -> Split:
        (pixels, _), (targets, where) = self._tensor(images, 3), self._tensor(labels, 1)
        return check(Split(pixels[:, None], targets.long()), self, str(where))

    def _tensor(self, name: str, dimensions: int) -> tuple[Tensor, Path]:
        path = raw.find(self._raw, name) or self._raw / name
        return read_idx(path, dimensions, self._md5(name)), path


@dataclass(kw_only=True)
class Published(Idx):
    """Idx files that torchvision can download and whose md5 is known.

    Args:
        verify: whether to check that the files are the published ones.
        download: whether to download missing files.
    """

    channels: Literal[1] = 1
    size: Literal[28] = 28
    classes: Literal[10] = 10
    verify: bool = True
    download: bool = True
    md5: ClassVar[dict[str, str]]
    """The md5 of each file, uncompressed."""

    def _fetch(self) -> Fetch | None:
        return torchvision(self.folder) if self.download else None

    def _md5(self, name: str) -> str | None:
        return self.md5[name] if self.verify else None


@dataclass(kw_only=True)
class MNIST(Published):
    """60,000 + 10,000 handwritten digits (Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, 1998)."""

    mean: list[float] = field(default_factory=lambda: [0.1307])
    std: list[float] = field(default_factory=lambda: [0.3081])
    folder: ClassVar[str] = "MNIST"
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    }


@dataclass(kw_only=True)
class FashionMNIST(Published):
    """60,000 + 10,000 articles of clothing (H. Xiao, K. Rasul, R. Vollgraf, 2017, arXiv:1708.07747)."""

    mean: list[float] = field(default_factory=lambda: [0.2860])
    std: list[float] = field(default_factory=lambda: [0.3530])
    folder: ClassVar[str] = "FashionMNIST"
    known_names: ClassVar[tuple[str, ...]] = (
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )
    md5: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    }
