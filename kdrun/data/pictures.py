"""Decodes image files and resizes them to one size."""

from __future__ import annotations

import logging
import math
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, _imaging
from torch import Tensor

from kdrun.data import raw
from kdrun.errors import InputError

LARGEST = 1 << 26
"""The most pixels that an image may have; a larger one may be a decompression bomb."""

BLOCK = 1 << 26
"""The bytes that Pillow allocates at once for a large image.

Pillow's own are 16 MB. Blocks below 32 MB are kept by the C library after use, in each thread that once used them.
"""

AHEAD = 64
"""How many files are decoded before the first of them is wanted."""

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
"""The formats that Pillow may recognize: those that it decodes itself. For others, such as EPS, it starts programs."""

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}

Fit = Literal["stretch", "crop"]


Load = Callable[[Path, "Room"], np.ndarray]
"""Decodes one file, to uint8."""


class Room:
    """The memory for images that are decoded at once: together they have at most ``LARGEST`` pixels."""

    def __init__(self) -> None:
        self._free, self._closed = LARGEST, False
        self._change = threading.Condition()

    @contextmanager
    def taken(self, count: int) -> Iterator[None]:
        """Waits until there is room for ``count`` pixels, at most ``LARGEST``, and keeps it during the block."""
        with self._change:
            self._change.wait_for(lambda: self._closed or self._free >= count)
            if self._closed:
                raise InterruptedError
            self._free -= count
        try:
            yield
        finally:
            with self._change:
                self._free += count
                self._change.notify_all()

    def close(self) -> None:
        """Ends all waiting, so that what follows is not delayed by images that nothing needs any more."""
        with self._change:
            self._closed = True
            self._change.notify_all()


def entries(folder: Path) -> list[Path]:
    """Returns what is in ``folder``, sorted by name, without hidden files.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] != ".")
    except OSError as error:
        raise InputError(str(folder), f"cannot be read ({error.strerror})") from None


def listed(folder: Path) -> list[Path]:
    """Returns the image files directly in ``folder``, sorted by name, without hidden files."""
    return [path for path in entries(folder) if path.suffix.lower() in SUFFIXES]


def outside(root: Path, paths: Sequence[Path]) -> list[str]:
    """Returns a note for the user if links lead from ``root`` to files elsewhere; else nothing."""
    inside = os.path.realpath(root)
    folders = {path.parent: os.path.realpath(path.parent) for path in paths}
    strange = {folder for folder, real in folders.items() if os.path.commonpath([inside, real]) != inside}
    away = [path for path in paths if path.parent in strange or _leaves(path, inside)]
    if not away:
        return []
    return [f"{len(away)} of {len(paths)} files are outside {root}, as {away[0]} is {os.path.realpath(away[0])}"]


def _leaves(path: Path, inside: str) -> bool:
    return path.is_symlink() and os.path.commonpath([inside, os.path.realpath(path)]) != inside


@contextmanager
def opened(path: Path, mode: str, room: Room) -> Iterator[Image.Image]:
    """Opens the image in a file, upright and in ``mode``: L for grey, RGB for colour.

    Args:
        path: the path of the file.
        mode: the mode of the image.
        room: the room that its pixels take during the block.

    Raises:
        InputError: if the file is no image, no regular file, truncated, too large, or has more than 8 bits per channel.
    """
    with raw.opened(path) as file:
        image = _decoding(path, lambda: Image.open(file, formats=FORMATS))
        if image.width * image.height > LARGEST:
            raise InputError(str(path), f"{image.width} x {image.height} pixels; {LARGEST} are the most that is read")
        if image.mode[0] in "IF":
            raise InputError(str(path), f"of mode {image.mode}; save it with 8 bits per channel")
        with room.taken(image.width * image.height):
            upright = _decoding(path, lambda: _upright(image, mode))
            try:
                yield upright
            finally:  # its memory is freed before its room is given to another
                upright.close()
                image.close()


def _upright(image: Image.Image, mode: str) -> Image.Image:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)  # in place and no needless conversion, as a copy may take 268 MB
    return image if image.mode == mode else image.convert(mode)


def _decoding(path: Path, step: Callable[[], Image.Image]) -> Image.Image:
    """Does one step of decoding a file.

    Raises:
        InputError: if it fails.
    """
    try:
        return step()
    except Image.DecompressionBombError:
        raise InputError(str(path), f"too large; {LARGEST} pixels are the most that is read") from None
    except MemoryError:
        raise InputError(str(path), "needs more memory than there is; replace or remove it") from None
    except Exception as error:  # a damaged file can raise any exception
        reason = " ".join(str(error).split("<")[0].split()) or type(error).__name__
        raise InputError(str(path), f"cannot be read ({reason}); replace or remove it") from None


def fitted(image: Image.Image, size: int, fit: Fit, exact: bool = False) -> Image.Image:
    """Returns ``image`` resized to ``size`` x ``size``.

    Args:
        image: an image of any size.
        size: the width and the height of the result, in pixels.
        fit: ``stretch`` scales width and height each; ``crop`` scales the shorter one and cuts out the centre.
        exact: whether to keep the colours without mixing them, as label maps need.
    """
    how = Image.Resampling.NEAREST if exact else Image.Resampling.BILINEAR
    if fit == "crop":
        return ImageOps.fit(image, (size, size), how)
    return image if image.size == (size, size) else image.resize((size, size), how)


def pixels(image: Image.Image) -> np.ndarray:
    """Returns the pixels of ``image``, (C, H, W) uint8."""
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def gathered(
    paths: Sequence[Path], shape: tuple[int, ...], load: Load, faults: list[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Decodes files in parallel.

    Args:
        paths: the paths of the files.
        shape: the shape of one decoded file.
        load: decodes one file, to uint8.
        faults: a list that gets one line about each unreadable file, which is then left out; None to raise instead.

    Returns:
        The decoded files (N, *shape) uint8, and (N,) int64 their positions in ``paths``.

    Raises:
        InputError: raised by ``load``, if ``faults`` is None; or if all files together need more memory than there is.
    """
    whole = _space(len(paths), shape)
    kept: list[int] = []
    room, pool = Room(), ThreadPoolExecutor()
    try:
        with _set_up():
            for place, job in enumerate(_jobs(pool, load, paths, room)):
                try:
                    whole[len(kept)] = job.result()
                    kept.append(place)
                except InputError as error:
                    if faults is None:
                        raise
                    faults.append(str(error))
                except MemoryError:
                    raise InputError(str(paths[place]), "needs more memory than there is") from None
    finally:
        room.close()
        pool.shutdown(cancel_futures=True)
    return torch.from_numpy(whole[: len(kept)]), torch.tensor(kept, dtype=torch.int64)


def _jobs(pool: ThreadPoolExecutor, load: Load, paths: Sequence[Path], room: Room) -> Iterator[Future[np.ndarray]]:
    """Yields the jobs of all files in order; only ``AHEAD`` of them, with their results, are in memory."""
    ahead: deque[Future[np.ndarray]] = deque()
    for path in paths:
        ahead.append(pool.submit(load, path, room))
        if len(ahead) == AHEAD:
            yield ahead.popleft()
    while ahead:
        yield ahead.popleft()


def _space(count: int, shape: tuple[int, ...]) -> np.ndarray:
    """Makes the array of all decoded files.

    Raises:
        InputError: if it takes more than half of the memory; splitting the data copies them.
    """
    needed, most = count * math.prod(shape), raw.memory() // 2
    try:
        if needed <= most:
            return np.empty((count, *shape), dtype=np.uint8)
    except MemoryError:
        pass
    images = f"{count} images of {' x '.join(map(str, shape))} take {needed / 1e9:.1f} GB"
    what = f"{images}, {most / 1e9:.1f} are the most here; use a smaller dataset.size, or fewer images"
    raise InputError("dataset.size", what)


@contextmanager
def _set_up() -> Iterator[None]:
    """Makes Pillow use blocks of ``BLOCK`` bytes and silences its warnings: what matters of a file is raised."""
    logger = logging.getLogger("PIL")
    level, block = logger.level, _imaging.get_block_size()
    with warnings.catch_warnings(action="ignore"):
        logger.setLevel(logging.CRITICAL)
        _imaging.set_block_size(BLOCK)
        try:
            yield
        finally:
            _imaging.set_block_size(block)
            logger.setLevel(level)
