"""Images that are learned: each for one class, in batches that an optimizer updates one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.methods.base import Batch

Noise = Literal["normal", "uniform"]
Within = Literal["row", "column"]


class Impressions(nn.Module):
    """The images of one class as parameters, one per batch, so that Adam keeps separate moments for each batch.

    Args:
        images: (N, C, H, W), normalized.
        targets: (N, classes), rows summing to 1.
        batch: images per parameter.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
    """

    targets: Tensor
    darkest: Tensor
    brightest: Tensor

    def __init__(self, images: Tensor, targets: Tensor, batch: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.batches = nn.ParameterList(nn.Parameter(part.clone()) for part in torch.split(images, batch))
        self.batch = batch
        middle, spread = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        for name, values in (("targets", targets), ("darkest", -middle / spread), ("brightest", (1 - middle) / spread)):
            self.register_buffer(name, torch.as_tensor(values, device=images.device))

    def forward(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the images and targets of the batch at the positions ``index`` (int64, on the CPU)."""
        number = int(index[0]) // self.batch
        images: Tensor = self.batches[number]
        return images, self.targets[number * self.batch :][: len(images)]

    @torch.no_grad()
    def clamp(self) -> None:
        """Clamps every pixel to the range of real pixels, [0, 1] before normalization."""
        for part in self.batches:
            part.clamp_(self.darkest, self.brightest)

    def images(self) -> Tensor:
        """Returns all images (N, C, H, W), normalized."""
        return torch.cat([part.detach() for part in self.batches])


@dataclass
class IndexStream:
    """A stream of the positions of a class's impressions, in batches; it holds no images."""

    batches: nn.ParameterList

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        ends = torch.tensor([0, *(len(part) for part in self.batches)]).cumsum(0).tolist()
        for low, high in zip(ends[start:-1], ends[start + 1 :], strict=True):
            index, empty = torch.arange(low, high), torch.empty(0)
            yield Batch(empty, empty, index, torch.zeros_like(index), number)


@dataclass
class ImpressionStream:
    """A stream of finished impressions, shuffled and, with ``augment``, moved in each epoch; it has no labels."""

    images: Tensor
    size: int
    seed: int
    augment: bool = False

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        seeds = torch.randint(2**62, (number,), generator=torch.Generator().manual_seed(self.seed))
        generator = torch.Generator().manual_seed(int(seeds[-1]))
        order = torch.randperm(len(self.images), generator=generator)
        draws = torch.rand(len(order), 4 if self.augment else 0, generator=generator)
        draws = torch.as_tensor(draws, device=self.images.device)
        for index in torch.as_tensor(order, device=self.images.device).tensor_split(len(self))[start:]:
            images = moved(self.images[index], draws[index]) if self.augment else self.images[index]
            yield Batch(images, torch.full_like(index, -1), index, torch.zeros_like(index), number)


def initial_noise(kind: Noise, shape: tuple[int, ...], mean: list[float], std: list[float]) -> Tensor:
    """Returns the initial noise of impressions (N, C, H, W), drawn on the CPU.

    Args:
        kind: ``normal``: numbers of mean 0 and variance 1, used as normalized images, so that pixels lie around the
            data's mean; ``uniform``: pixels anywhere in [0, 1], normalized.
        shape: shape (N, C, H, W) of the images.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
    """
    if kind == "normal":
        return torch.randn(shape)
    middle, spread = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
    return (torch.rand(shape) - middle) / spread


def moved(images: Tensor, draws: Tensor) -> Tensor:
    """Returns ``images`` (N, C, S, S), each rotated, shrunk and shifted by four numbers in [0, 1) of ``draws`` (N, 4).

    The rotation is up to 90 degrees in either direction, the smallest size is 0.6 of the original, and the shift is up
    to a fifth of the size. This is the geometric part of the augmentation by the authors of data impressions
    (github.com/vcl-iisc/ZSKD), drawn for each image. Pixels beyond the border repeat the border.
    """
    turn, shrink = torch.pi * (draws[:, 0] - 0.5), 1 - 0.4 * draws[:, 1]
    cos, sin, shift = turn.cos() / shrink, turn.sin() / shrink, 0.8 * (draws[:, 2:] - 0.5)
    rows = (torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def concentrations(likeness: Tensor, within: Within = "row") -> Tensor:
    """Returns ``likeness`` (classes, classes) scaled to [0, 1]; row c holds the concentrations for targets of class c.

    Args:
        likeness: similarity of every two classes, symmetric; each class is most similar to itself.
        within: ``row`` scales each row by its lowest and highest value, so the class least similar to another has 0 in
            its row. ``column`` scales by those of each column instead, an error in published code.
    """
    side = 1 if within == "row" else 0
    low, high = likeness.amin(side, keepdim=True), likeness.amax(side, keepdim=True)
    return (likeness - low) / (high - low).clamp(min=1e-12)


def dirichlet(concentration: Tensor, scales: Tensor, label: int | None = None, least: float = 1e-4) -> Tensor:
    """Returns targets (N, classes), one for each of ``scales`` (N,), drawn around one class.

    Args:
        concentration: the concentrations (classes,) of that class, in [0, 1].
        scales: factors (N,) of the concentrations.
        label: the class; targets in which another class is the most likely are drawn again. None accepts all.
        least: a number added to each concentration, so that it is above 0.
    """
    around = torch.distributions.Dirichlet(scales[:, None] * concentration + least)
    targets = around.sample()
    while label is not None and (other := targets.argmax(1) != label).any():
        targets[other] = around.sample()[other]
    return targets.float()
