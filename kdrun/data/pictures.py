"""Image files, decoded and brought to one size."""

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
"""Pixels: a file that unpacks to more is taken for a bomb."""

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}

Fit = Literal["stretch", "crop"]


def listed(folder: Path) -> list[Path]:
    """Returns the image files right in ``folder``, by name; hidden ones do not count."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def opened(path: Path, mode: str) -> Image.Image:
    """Returns the image in a file, upright and in ``mode``: L for grey, RGB for colour.

    Raises:
        InputError: if the file is no image, cut short, absurdly large, or of more than 8 bits per channel.
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
        except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow's ways to say that it is broken
            reason = " ".join(str(error).split("<")[0].split()) or type(error).__name__
            raise InputError(str(path), f"cannot be read ({reason}); replace or remove it") from None


def fitted(image: Image.Image, size: int, fit: Fit, exact: bool = False) -> Image.Image:
    """Returns ``image`` at ``size`` x ``size``.

    Args:
        image: of any size.
        size: pixels.
        fit: scale width and height each (``stretch``), or the shorter one and cut out the centre (``crop``).
        exact: whether the result may hold no colour that ``image`` does not, as befits label maps.
    """
    how = Image.Resampling.NEAREST if exact else Image.Resampling.BILINEAR
    if fit == "crop":
        return ImageOps.fit(image, (size, size), how)
    return image if image.size == (size, size) else image.resize((size, size), how)


def pixels(image: Image.Image) -> np.ndarray:
    """Returns (C, H, W) uint8."""
    values = np.asarray(image)
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def gathered(
    paths: Sequence[Path], shape: tuple[int, ...], load: Callable[[Path], np.ndarray], faults: list[str] | None = None
) -> tuple[Tensor, Tensor]:
    """Decodes files side by side.

    Args:
        paths: of the files.
        shape: of what ``load`` makes of one, uint8.
        load: reads one.
        faults: takes one line about each file that cannot be read, which is then left out; None to raise.

    Returns:
        (N, *shape) uint8, and (N,) int64 the places in ``paths`` of those that could be read.

    Raises:
        InputError: of ``load``, unless ``faults`` are taken.
    """
    whole = np.empty((len(paths), *shape), dtype=np.uint8)
    kept: list[int] = []
    pool = ThreadPoolExecutor()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ``opened`` has a limit of its own
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
