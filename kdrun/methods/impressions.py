"""Images that are learned: of one class each, in batches that an optimizer moves one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdrun.methods.base import Batch


class Impressions(nn.Module):
    """The images of one class as parameters, one for each batch, so that the others' moments in Adam rest meanwhile.

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
        """Returns the images and targets of the batch at the places ``index`` (int64, on the CPU)."""
        place = int(index[0]) // self.batch
        images: Tensor = self.batches[place]
        return images, self.targets[place * self.batch :][: len(images)]

    @torch.no_grad()
    def clamp(self) -> None:
        """Brings every pixel back to one that exists."""
        for part in self.batches:
            part.clamp_(self.darkest, self.brightest)

    def images(self) -> Tensor:
        """Returns all images (N, C, H, W), normalized."""
        return torch.cat([part.detach() for part in self.batches])


@dataclass
class Places:
    """A stream of the places of a class's impressions, batch after batch; it holds no image."""

    batches: nn.ParameterList

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        ends = torch.tensor([0, *(len(part) for part in self.batches)]).cumsum(0).tolist()
        for low, high in zip(ends[start:-1], ends[start + 1 :], strict=True):
            index, nothing = torch.arange(low, high), torch.empty(0)
            yield Batch(nothing, nothing, index, torch.zeros_like(index), number)


@dataclass
class Shown:
    """A stream of finished impressions, shuffled and, where wanted, moved anew each epoch; labels are the teacher's."""

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


def drawn(kind: Literal["normal", "uniform"], shape: tuple[int, ...], mean: list[float], std: list[float]) -> Tensor:
    """Returns the noise that impressions begin as (N, C, H, W), drawn on the CPU.

    Args:
        kind: ``normal``: numbers of mean 0 and variance 1, taken as normalized images, so that pixels lie about the
            data's mean; ``uniform``: pixels anywhere in [0, 1], normalized.
        shape: of the images.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1].
    """
    if kind == "normal":
        return torch.randn(shape)
    middle, spread = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
    return (torch.rand(shape) - middle) / spread


def moved(images: Tensor, draws: Tensor) -> Tensor:
    """Returns ``images`` (N, C, S, S), each turned, shrunk and shifted by four numbers in [0, 1) of ``draws`` (N, 4).

    By up to 90 degrees either way, to 0.6 of its size at the least, and by up to a fifth of it: the geometric part of
    what the authors of data impressions do (github.com/vcl-iisc/ZSKD), drawn for each image. Its border goes on.
    """
    turn, shrink = torch.pi * (draws[:, 0] - 0.5), 1 - 0.4 * draws[:, 1]
    cos, sin, shift = turn.cos() / shrink, turn.sin() / shrink, 0.8 * (draws[:, 2:] - 0.5)
    rows = (torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1))
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def concentrations(likeness: Tensor, within: Literal["row", "column"] = "row") -> Tensor:
    """Returns ``likeness`` (classes, classes) brought to [0, 1]; its rows are what targets of a class are drawn by.

    Args:
        likeness: of every two classes, symmetric; largest of a class with itself.
        within: ``row``: the class least like another has 0 in its row. ``column`` takes lowest and highest of each
            column instead, a slip of published code.
    """
    side = 1 if within == "row" else 0
    low, high = likeness.amin(side, keepdim=True), likeness.amax(side, keepdim=True)
    return (likeness - low) / (high - low).clamp(min=1e-12)


def dirichlet(concentration: Tensor, scales: Tensor, label: int | None = None, least: float = 1e-4) -> Tensor:
    """Returns a target (N, classes) for each of ``scales`` (N,), drawn around one class.

    Args:
        concentration: of that class (classes,), in [0, 1].
        scales: by which the concentration is multiplied.
        label: the class; targets in which another one is the most likely are drawn again. None takes all.
        least: added to each concentration, which must be above 0.
    """
    around = torch.distributions.Dirichlet(scales[:, None] * concentration + least)
    made = around.sample()
    while label is not None and (other := made.argmax(1) != label).any():
        made[other] = around.sample()[other]
    return made.float()
