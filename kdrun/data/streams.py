"""Makes batches from a split: shuffled and augmented for training, in order and unchanged for scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kdrun.data import augment
from kdrun.data.source import Places, Source, Split
from kdrun.errors import ConfigError
from kdrun.train import stage
from kdrun.train.runtime import derive
from kdrun.train.stage import Batch, Pass


class Stream:
    """The shuffled, augmented batches of a split; the same seed and name give the same bits on every device.

    All random numbers of an epoch are drawn on the CPU at its start, so an epoch can start at any batch. BatchNorm
    cannot train on one image, so a last batch of one image is merged into the batch before it.

    Args:
        split: the split; its images stay uint8 until a batch is made.
        places: where its images are among the training images as read.
        source: the data set, which determines how images are augmented and normalized, and whether all runs with one
            ``view_seed`` see an image in the same view in the same epoch.
        batch_size: images per batch, at most ``split.size``.
        seed: the seed of the run or of the teacher.
        name: the name of the stage; each name gives another order.
        device: the device on which batches are made.

    Raises:
        ConfigError: if a batch is larger than the split.
    """

    def __init__(
        self, split: Split, places: Places, source: Source, batch_size: int, seed: int, name: str, device: torch.device
    ) -> None:
        check_batch(batch_size, split)
        self.size = split.size
        self.views = augment.views(source.crop, source.flip)
        self.seed = seed
        self.name = name
        self.view_seed = source.view_seed
        self._places = places
        self._split = split.to(device)
        self._pipeline = _Pipeline.of(source, device)
        self._bounds = _bounds(split.size, batch_size)

    def __len__(self) -> int:
        """Returns the number of batches in an epoch."""
        return len(self._bounds)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of epoch ``number`` (from 1), starting with batch ``start`` (from 0)."""
        generator = torch.Generator().manual_seed(derive(self.seed, self.name, number))
        device = self._split.images.device
        order = torch.randperm(self.size, generator=generator)
        index = self._places.index[order]
        view = self._views(index, number, generator)
        here, seen, known = order.to(device), view.to(device), index.to(device)
        whole = Pass(index, view, lambda rows: self._pipeline.pairs(self._split, here[rows], seen[rows]).images)
        for low, high in self._bounds[start:]:
            images, targets = self._pipeline.pairs(self._split, here[low:high], seen[low:high])
            yield Batch(images, targets, known[low:high], seen[low:high], number, whole, low)

    def _views(self, index: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """Returns the views of the images at the places ``index`` in epoch ``number``."""
        if self.view_seed is None:
            return torch.randint(self.views, (self.size,), generator=generator)
        # for every image of the data set, so that they depend neither on the run's seed and subset nor on the stage
        shared = torch.Generator().manual_seed(derive(self.view_seed, "views", number))
        return torch.randint(self.views, (self._places.count,), generator=shared)[index]


def check_batch(batch_size: int, split: Split, where: str = "batch_size") -> None:
    """Refuses a batch size larger than the number of training images in ``split``.

    Raises:
        ConfigError: naming the key ``where``.
    """
    if batch_size > split.size:
        raise ConfigError(where, f"{batch_size} exceeds the {split.size} training images; use at most {split.size}")


def batches(split: Split, source: Source, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Yields a split in order and without augmentation, for scores; the epoch is 0, the last batch may be smaller."""
    split, pipeline = split.to(device), _Pipeline.of(source, device)
    as_is = augment.identity(source.crop, source.flip)
    for low in range(0, split.size, batch_size):
        index = torch.arange(low, min(low + batch_size, split.size), device=device)
        view = torch.full_like(index, as_is)
        yield Batch(*pipeline.pairs(split, index, view, as_it_is=True), index, view, 0)


class _Pipeline(NamedTuple):
    """The steps from a source's pixels to a model's input: augmentation and normalization."""

    crop: int
    flip: bool
    shift: Tensor  # (C, 1, 1)
    scale: Tensor  # (C, 1, 1)

    @classmethod
    def of(cls, source: Source, device: torch.device) -> _Pipeline:
        mean, std = (torch.tensor(each, dtype=torch.float32).view(-1, 1, 1) for each in (source.mean, source.std))
        return cls(source.crop, source.flip, (-mean / std).to(device), (1 / (255 * std)).to(device))

    def pairs(self, split: Split, index: Tensor, view: Tensor, as_it_is: bool = False) -> Split:
        """Returns the images at the places ``index``, and their targets."""
        images, targets = (self._processed(pixels, index, None if as_it_is else view) for pixels in split)
        return Split(images, targets)

    def _processed(self, pixels: Tensor, index: Tensor, view: Tensor | None) -> Tensor:
        taken = pixels.index_select(0, index)
        if pixels.dtype != torch.uint8:  # class ids
            return taken
        seen = taken if view is None else augment.augment(taken, view, self.crop, self.flip)
        return torch.addcmul(self.shift, seen, self.scale)


def _bounds(size: int, batch_size: int) -> list[tuple[int, int]]:
    lows = list(range(0, size, batch_size))
    if len(lows) > 1 and size - lows[-1] == 1 and batch_size > 1:
        lows.pop()
    return list(zip(lows, [*lows[1:], size], strict=True))


class FirstBatches:
    """The first two batches of each epoch of a stream."""

    def __init__(self, stream: stage.Batches) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return min(2, len(self.stream))

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        for _, batch in zip(range(len(self) - start), self.stream.epoch(number, start), strict=False):
            yield batch


def pixels(images: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Returns normalized ``images`` as pixels in [0, 1]."""
    scale, shift = (torch.tensor(values, device=images.device).view(1, -1, 1, 1) for values in (std, mean))
    return torch.addcmul(shift, images, scale).clamp(0, 1)
