"""Label maps as colour images: the class of each pixel, and scores of label maps made by a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdrun.train.stage import Scores

NO_CLASS = 40 / 255
"""A pixel of a Cityscapes label map further than this from every class's colour belongs to a class that is not scored.

The colours of those classes are 42/255 or more from the scored ones, and the blur of JPEG is less than that. There are
exceptions: guard rail (31), caravan and trailer (20, 32) are nearer, and pole group and licence plate have the same
colours as pole and car.
"""


def closest(images: Tensor, palette: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Returns the index of the closest colour of ``palette`` for each pixel, and the Euclidean distance to it.

    Args:
        images: (N, 3, H, W) in [0, 1].
        palette: colours as red, green and blue in 0..255.

    Returns:
        The indices (N, H, W) int64, and the distances (N, H, W) in [0, sqrt 3], in the units of ``images``.
    """
    colours = torch.tensor(palette, device=images.device) / 255
    parts = torch.split(images.permute(0, 2, 3, 1).flatten(1, 2), 64)  # all pixels at once would take gigabytes
    nearest = [torch.cdist(part, colours).min(2) for part in parts]
    shape = (len(images), *images.shape[2:])
    return torch.cat([part.indices for part in nearest]).view(shape), torch.cat([part.values for part in nearest]).view(
        shape
    )


def label_map_scores(
    painted: Tensor, targets: Tensor, palette: Sequence[Sequence[int]], names: Sequence[str]
) -> Scores:
    """Returns the scores of label maps made by a model; each pixel counts as the class of the closest colour.

    The scores are ``pixel_accuracy``, ``miou`` (mean intersection over union) and ``recall/NAME``, all in [0, 1], over
    the classes that occur in ``targets``. Pixels whose true colour is further than ``NO_CLASS`` from that of every
    class are left out.

    Args:
        painted: the label maps made by a model, (N, 3, H, W) in [0, 1].
        targets: the true label maps, in the same form.
        palette: the colours of the classes, in 0..255.
        names: the names of the classes.
    """
    (guess, _), (truth, distance) = closest(painted, palette), closest(targets, palette)
    known = distance <= NO_CLASS
    counts = torch.zeros(len(palette), len(palette), dtype=torch.int64, device=painted.device)
    counts.view(-1).add_(torch.bincount(truth[known] * len(palette) + guess[known], minlength=len(palette) ** 2))
    right, occurs = counts.diag(), counts.sum(1) > 0
    recall, union = right / counts.sum(1), counts.sum(0) + counts.sum(1) - right
    return {
        "pixel_accuracy": (right.sum() / counts.sum()).item(),
        "miou": (right / union)[occurs].mean().item(),
        **{f"recall/{names[place]}": recall[place].item() for place in occurs.nonzero()[:, 0].tolist()},
    }
