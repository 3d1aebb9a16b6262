"""SVHN: single digits cropped from photographs of house numbers."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from kdrun.data import raw
from kdrun.data.cache import cached
from kdrun.data.download import ensure, torchvision
from kdrun.data.source import Source, Split, check
from kdrun.errors import InputError

LARGEST = 1 << 31
"""The most bytes that are read of a file; the largest file of SVHN has 182 million."""

HEADER, COMPRESSED = 128, 15
"""The bytes before the first part of a MATLAB file, and the type of a part that is compressed."""

MD5 = {
    "train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373",
    "test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3",
}


@dataclass(kw_only=True)
class SVHN(Source):
    """73,257 + 26,032 digits of 32 x 32 pixels from house numbers (Y. Netzer et al., 2011).

    Args:
        root: the folder of all data sets.
        verify: whether to check that the files are the published ones.
        download: whether to download missing files.
    """

    channels: Literal[3] = 3
    size: Literal[32] = 32
    classes: Literal[10] = 10
    mean: list[float] = field(default_factory=lambda: [0.4377, 0.4438, 0.4728])
    std: list[float] = field(default_factory=lambda: [0.1980, 0.2010, 0.1970])
    root: str = "data"
    verify: bool = True
    download: bool = True
    folder: ClassVar[str] = "SVHN"

    def read(self) -> tuple[Split, Split]:
        ensure(Path(self.root), self.folder, list(MD5), self._missing, _fetch if self.download else None)
        return cached(self, self._place, [self._place / name for name in MD5], self._parse)

    @property
    def _place(self) -> Path:
        return Path(self.root) / self.folder

    def _missing(self) -> list[str]:
        return [name for name in MD5 if not (self._place / name).is_file()]

    def _parse(self) -> tuple[Split, Split]:
        train, test = (self._split(self._place / name, md5) for name, md5 in MD5.items())
        return train, test

    def _split(self, path: Path, md5: str) -> Split:
        with raw.opened(path) as file:
            content = raw.take(file, path, LARGEST)
        raw.verify(path, content, md5 if self.verify else None)
        pixels, digits = _arrays(content, path)
        labels = torch.from_numpy(digits.astype(np.int64).reshape(-1))
        labels[labels == 10] = 0  # in the published files the label of the digit 0 is 10
        images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))
        return check(Split(images, labels), self, str(path))


def _arrays(content: bytes | bytearray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    from scipy.io import loadmat, whosmat

    try:
        unpacked = _unpacked(content)
        kinds = {name: kind for name, _, kind in whosmat(BytesIO(unpacked))}  # reads the headers alone
        numbers = [name for name in ("X", "y") if kinds.get(name, "").startswith(("uint", "int"))]
        arrays: dict[str, Any] = loadmat(BytesIO(unpacked), variable_names=numbers)
    except Exception as error:  # a damaged file can raise any exception
        raise InputError(str(path), f"not a MATLAB file ({' '.join(str(error).split())}); fetch it again") from None
    pixels, digits = arrays.get("X"), arrays.get("y")
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.shape[:3] != (32, 32, 3)
        or pixels.ndim != 4
    ):
        raise InputError(str(path), "holds no X of 32 x 32 x 3 x N bytes; fetch it again")
    if not isinstance(digits, np.ndarray) or digits.dtype.kind not in "iu":
        raise InputError(str(path), "holds no y of whole numbers; fetch it again")
    return pixels, digits


def _unpacked(content: bytes | bytearray) -> bytearray:
    """Returns a MATLAB file of version 5 with its compressed parts unpacked; scipy would unpack any number of bytes.

    Raises:
        ValueError: if it is of another version, or unpacks to more than image data do.
        zlib.error: if a part is damaged.
    """
    if content[126:128] != b"IM":
        raise ValueError("of another version than 5")
    most, place = max(raw.EXPANSION * len(content), raw.SMALL), HEADER
    unpacked = bytearray(content[:HEADER])
    while place + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, place)
        part = content[place : place + 8 + size]
        if kind == COMPRESSED:
            part = zlib.decompressobj().decompress(part[8:], most - len(unpacked) + 1)
        unpacked += part
        if len(unpacked) > most:
            raise ValueError(f"unpacks to more than {most} bytes")
        place += 8 + size
    return unpacked


def _fetch(scratch: Path) -> None:
    for part in ("train", "test"):
        torchvision("SVHN", split=part)(scratch / SVHN.folder)
