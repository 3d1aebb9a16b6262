"""CIFAR, in the Python version that its authors publish."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch

from kdrun.data import raw
from kdrun.data.cache import cached
from kdrun.data.download import ensure, torchvision
from kdrun.data.pickles import unpickle
from kdrun.data.source import Source, Split, check
from kdrun.errors import InputError

LARGEST = 1 << 30
"""The most bytes that are read of a file; the files of CIFAR are much smaller."""

PIXELS = 3 * 32 * 32


@dataclass(kw_only=True)
class Cifar(Source):
    """Batches of pickled 32 x 32 images, in torchvision's folder layout.

    Args:
        root: the folder of all data sets.
        verify: whether to check that the files are the published ones.
        download: whether to download missing files.
    """

    channels: Literal[3] = 3
    size: Literal[32] = 32
    crop: Annotated[int, "[0, inf)"] = 4
    flip: bool = True
    root: str = "data"
    verify: bool = True
    download: bool = True
    kind: ClassVar[str]
    """The class of torchvision.datasets that downloads the files."""
    folder: ClassVar[str]
    train_files: ClassVar[tuple[str, ...]]
    test_files: ClassVar[tuple[str, ...]]
    meta: ClassVar[str]
    """The file that holds the names of the classes."""
    md5: ClassVar[dict[str, str]]

    def read(self) -> tuple[Split, Split]:
        fetch = torchvision(self.kind) if self.download else None
        ensure(Path(self.root), self.folder, list(self.md5), self._missing, fetch)
        return cached(self, self._place, [self._place / name for name in self.md5], self._parse)

    @property
    def _place(self) -> Path:
        return Path(self.root) / self.folder

    def _missing(self) -> list[str]:
        return [name for name in self.md5 if not (self._place / name).is_file()]

    def _keys(self) -> tuple[bytes, bytes]:
        """Returns the key of the labels in a batch, and the key of the class names in the meta file."""
        return b"labels", b"label_names"

    def _parse(self) -> tuple[Split, Split]:
        labels, names = self._keys()
        self.names = self._class_names(names)
        return self._split(self.train_files, labels), self._split(self.test_files, labels)

    def _class_names(self, key: bytes) -> list[str]:
        content = self._open(self.meta).get(key)
        if not isinstance(content, list) or len(content) != self.classes:
            what = f"has no {self.classes} {key.decode()} (dataset.classes={self.classes}); fetch it again"
            raise InputError(str(self._place / self.meta), what)
        return [name.decode() if isinstance(name, bytes) else str(name) for name in content]

    def _split(self, names: tuple[str, ...], key: bytes) -> Split:
        content = [self._batch(name, key) for name in names]
        return Split(torch.cat([part.images for part in content]), torch.cat([part.targets for part in content]))

    def _batch(self, name: str, key: bytes) -> Split:
        content, where = self._open(name), str(self._place / name)
        pixels, labels = content.get(b"data"), content.get(key)
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.shape[1] != PIXELS:
            raise InputError(where, f"holds no data of N x {PIXELS} bytes; fetch it again")
        if not isinstance(labels, list) or not all(type(label) is int and abs(label) < 1 << 31 for label in labels):
            raise InputError(where, f"holds no list of {key.decode()}; fetch it again")
        images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32).copy())
        return check(Split(images, torch.tensor(labels, dtype=torch.int64)), self, where)

    def _open(self, name: str) -> dict[bytes, Any]:
        path = self._place / name
        with raw.opened(path) as file:
            content = raw.take(file, path, LARGEST)
        raw.verify(path, content, self.md5[name] if self.verify else None)
        return unpickle(content, path)


@dataclass(kw_only=True)
class CIFAR10(Cifar):
    """50,000 + 10,000 photographs of 32 x 32 pixels (A. Krizhevsky, 2009)."""

    classes: Literal[10] = 10
    mean: list[float] = field(default_factory=lambda: [0.4914, 0.4822, 0.4465])
    std: list[float] = field(default_factory=lambda: [0.2470, 0.2435, 0.2616])
    kind: ClassVar[str] = "CIFAR10"
    folder: ClassVar[str] = "cifar-10-batches-py"
    train_files: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{number}" for number in range(1, 6))
    test_files: ClassVar[tuple[str, ...]] = ("test_batch",)
    meta: ClassVar[str] = "batches.meta"
    md5: ClassVar[dict[str, str]] = {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    }


@dataclass(kw_only=True)
class CIFAR100(Cifar):
    """50,000 + 10,000 photographs of 32 x 32 pixels in 100 fine or 20 coarse classes (A. Krizhevsky, 2009).

    Args:
        labels: whether to use the fine or the coarse classes; ``coarse`` changes ``classes`` from 100 to 20.
    """

    classes: Literal[20, 100] = 100
    mean: list[float] = field(default_factory=lambda: [0.5071, 0.4865, 0.4409])
    std: list[float] = field(default_factory=lambda: [0.2673, 0.2564, 0.2762])
    labels: Literal["fine", "coarse"] = "fine"
    kind: ClassVar[str] = "CIFAR100"
    folder: ClassVar[str] = "cifar-100-python"
    train_files: ClassVar[tuple[str, ...]] = ("train",)
    test_files: ClassVar[tuple[str, ...]] = ("test",)
    meta: ClassVar[str] = "meta"
    md5: ClassVar[dict[str, str]] = {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    }

    def __post_init__(self) -> None:
        if self.labels == "coarse" and self.classes == 100:
            self.classes = 20
        super().__post_init__()

    def _keys(self) -> tuple[bytes, bytes]:
        return f"{self.labels}_labels".encode(), f"{self.labels}_label_names".encode()
