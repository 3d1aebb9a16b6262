"""Label maps as colours: which class a pixel was painted for, and how good painted maps are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdrun.train.stage import Scores

NO_CLASS = 40 / 255
"""Further than this from every class's colour, a pixel of a Cityscapes label map is of a class that is not scored: the
colours of those lie 42/255 and more from the scored ones', while the blur of JPEG keeps to less. Guard rail (31),
caravan and trailer (20, 32) are nearer, pole group and licence plate have the very colours of pole and car."""


def closest(images: Tensor, palette: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Returns which colour of ``palette`` each pixel is closest to, and how far it is: (N, H, W) int64 and float.

    Args:
        images: (N, 3, H, W) in [0, 1].
        palette: red, green and blue in 0..255; the distance is Euclidean, in [0, 1] to the cube's corner in sqrt 3.
    """
    colours = torch.tensor(palette, device=images.device) / 255
    parts = torch.split(images.permute(0, 2, 3, 1).flatten(1, 2), 64)  # of all pixels at once: gigabytes
    found = [torch.cdist(part, colours).min(2) for part in parts]
    shape = (len(images), *images.shape[2:])
    return torch.cat([part.indices for part in found]).view(shape), torch.cat([part.values for part in found]).view(
        shape
    )


def label_map_scores(made: Tensor, wanted: Tensor, palette: Sequence[Sequence[int]], names: Sequence[str]) -> Scores:
    """Returns how good colours painted for classes are: every pixel counts as the class of the closest colour.

    ``pixel_accuracy``, ``miou`` (mean intersection over union) and ``recall/NAME``, all in [0, 1], over the classes
    that occur in ``wanted``. Pixels whose true colour is no class's (further than ``NO_CLASS`` from all) are left out.

    Args:
        made: (N, 3, H, W) in [0, 1].
        wanted: as ``made``.
        palette: the classes' colours.
        names: of the classes.
    """
    (guess, _), (truth, apart) = closest(made, palette), closest(wanted, palette)
    known = apart <= NO_CLASS
    counts = torch.zeros(len(palette), len(palette), dtype=torch.int64, device=made.device)
    counts.view(-1).add_(torch.bincount(truth[known] * len(palette) + guess[known], minlength=len(palette) ** 2))
    right, occurs = counts.diag(), counts.sum(1) > 0
    recall, union = right / counts.sum(1), counts.sum(0) + counts.sum(1) - right
    return {
        "pixel_accuracy": (right.sum() / counts.sum()).item(),
        "miou": (right / union)[occurs].mean().item(),
        **{f"recall/{names[place]}": recall[place].item() for place in occurs.nonzero()[:, 0].tolist()},
    }
