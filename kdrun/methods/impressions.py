"""Images that are learned: of one class each, in batches that an optimizer moves one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
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
    """A stream of finished impressions, shuffled anew each epoch; labels are the teacher's to give."""

    images: Tensor
    size: int
    seed: int

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        seeds = torch.randint(2**62, (number,), generator=torch.Generator().manual_seed(self.seed))
        generator = torch.Generator().manual_seed(int(seeds[-1]))
        order = torch.randperm(len(self.images), generator=generator)
        for index in torch.as_tensor(order, device=self.images.device).tensor_split(len(self))[start:]:
            yield Batch(self.images[index], torch.full_like(index, -1), index, torch.zeros_like(index), number)


def dirichlet(likeness: Tensor, scales: Tensor, least: float = 1e-4) -> Tensor:
    """Returns a target (N, classes) for each of ``scales`` (N,), drawn around one class.

    Args:
        likeness: of that class to all (classes,); brought to [0, 1], so that the least like has 0 and itself 1.
        scales: by which the concentration is multiplied.
        least: added to each concentration, which must be above 0.
    """
    low, high = likeness.min(), likeness.max()
    concentration = (likeness - low) / (high - low).clamp(min=1e-12)
    return torch.distributions.Dirichlet(scales[:, None] * concentration + least).sample().float()
