"""Random crops and flips of whole batches; every possible outcome has a number, its view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def views(crop: int, flip: bool) -> int:
    """Returns the number of views of a sample: (2 crop + 1)^2, twice as many with flips."""
    return int((2 * crop + 1) ** 2 * (1 + flip))


def identity(crop: int, flip: bool) -> int:
    """Returns the view that leaves a sample unchanged."""
    return crop * (2 * crop + 2) * (1 + flip)


def augment(images: Tensor, view: Tensor, crop: int, flip: bool) -> Tensor:
    """Returns each image in its view: padded by ``crop`` zeros on each side, cropped, and perhaps mirrored.

    A view is ``(dy (2 crop + 1) + dx) (1 + flip) + mirrored``; (dy, dx) in [0, 2 crop] is the corner of the crop.

    Args:
        images: (N, C, H, W).
        view: (N,) int64 in [0, views(crop, flip)), on the device of ``images``.
        crop: zeros added on each side.
        flip: whether views may be mirrored from left to right.

    Returns:
        The views (N, C, H, W), in the dtype of ``images``.
    """
    place, mirrored = (view // 2, view % 2 == 1) if flip else (view, None)
    cut = _cut(images, place, crop) if crop else images
    return cut if mirrored is None else torch.where(mirrored[:, None, None, None], cut.flip(3), cut)


def _cut(images: Tensor, place: Tensor, crop: int) -> Tensor:
    padded = F.pad(images, (crop, crop, crop, crop))
    count, channels, height, width = padded.shape
    corner = torch.arange(count, device=images.device) * (channels * height * width)
    corner += place // (2 * crop + 1) * width + place % (2 * crop + 1)
    # every crop is a window of the same strides over one flat buffer: a view without cost, then one copy; on a CPU
    # this is twice as fast as a gather from nested unfolds
    last = channels * height * width * (count - 1) + 2 * crop * (width + 1)
    windows = padded.as_strided((last + 1, *images.shape[1:]), (1, height * width, width, 1))
    return windows.index_select(0, corner)
