"""Decodes image files and resizes them to one size."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kdrun.data import raw
from kdrun.errors import InputError

LARGEST = 1 << 26
"""The most pixels that an image may have; a larger one may be a decompression bomb."""

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}

Fit = Literal["stretch", "crop"]


def listed(folder: Path) -> list[Path]:
    """Returns the image files directly in ``folder``, sorted by name, without hidden files."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def opened(path: Path, mode: str) -> Image.Image:
    """Returns the image in a file, upright and in ``mode``: L for grey, RGB for colour.

    Raises:
        InputError: if the file is no image, truncated, too large, or has more than 8 bits per channel.
    """
    with raw.opened(path) as file:
        try:
            image = Image.open(file)
            if image.width * image.height > LARGEST:
                raise InputError(
                    str(path), f"{image.width} x {image.height} pixels; {LARGEST} are the most that is read"
                )
            if image.mode[0] in "IF":
                raise InputError(str(path), f"of mode {image.mode}; save it with 8 bits per channel")
            return ImageOps.exif_transpose(image).convert(mode)
        except Image.DecompressionBombError:
            raise InputError(str(path), f"too large; {LARGEST} pixels are the most that is read") from None
        except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow raises all of these for damaged files
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
    paths: Sequence[Path], shape: tuple[int, ...], load: Callable[[Path], np.ndarray], faults: list[str] | None = None
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
        InputError: raised by ``load``, if ``faults`` is None.
    """
    whole = np.empty((len(paths), *shape), dtype=np.uint8)
    kept: list[int] = []
    pool = ThreadPoolExecutor()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ``opened`` has its own limit
            for place, job in enumerate([pool.submit(load, path) for path in paths]):
                try:
                    whole[len(kept)] = job.result()
                    kept.append(place)
                except InputError as error:
                    if faults is None:
                        raise
                    faults.append(str(error))
    finally:
        pool.shutdown(cancel_futures=True)
    return torch.from_numpy(whole[: len(kept)]), torch.tensor(kept, dtype=torch.int64)
