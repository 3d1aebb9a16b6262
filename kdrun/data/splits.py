"""Splits a data set into training, validation and test images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kdrun.data.source import Places, Source, Split
from kdrun.errors import ConfigError
from kdrun.train.runtime import derive

NOISE = "noise"
"""The digest of the random images of a rehearsal."""


@dataclass
class Data:
    """A data set, read and split; all images are in memory."""

    source: Source
    train: Split
    """The training images without the validation images."""
    subset: Split
    """The images that the student trains on: ``train`` itself, or ``train_size`` images of it."""
    val: Split
    test: Split
    digest: str
    """The sha256 of all training images and targets as read, before padding and splitting."""
    notes: list[str]
    """Notes about the data for the user, one line each."""
    train_places: Places
    """Where the images of ``train`` are among the training images as read."""
    subset_places: Places
    """Where the images of ``subset`` are among the training images as read."""

    @property
    def rehearsed(self) -> bool:
        """Whether these are the random images of a rehearsal, in which only the shapes have a meaning."""
        return self.digest == NOISE

    @classmethod
    def read(cls, source: Source) -> Data:
        """Reads ``source`` and splits it; the same ``split_seed`` gives the same split.

        Raises:
            ConfigError: if a split would be empty, or ``train_size`` is larger than the training split.
            InputError: if files are missing or unfit.
        """
        whole, test = source.read()
        digest = source.digest or whole.digest()
        whole, test = _pad(whole, source.size), _pad(test, source.size)
        held = _held_back(whole.size, source)
        train, val = _separated(whole, held)
        places = Places(_others(whole.size, held), whole.size)
        chosen = _chosen(train, source)
        subset, fewer = (train, places) if chosen is None else (train.take(chosen), places.take(chosen))
        notes = [*source.notes, *_missing(train, "training", source), *_missing(val, "validation", source)]
        return cls(source, train, subset, val, test, digest, notes, places, fewer)

    def to(self, device: torch.device) -> Data:
        """Returns the data on ``device``."""
        train = self.train.to(device)
        subset = train if self.subset is self.train else self.subset.to(device)
        return replace(self, train=train, subset=subset, val=self.val.to(device), test=self.test.to(device))

    def first(self, count: int) -> Data:
        """Returns the data with at most the first ``count`` validation images and ``count`` test images."""
        val, test = (split.take(torch.arange(min(count, split.size))) for split in (self.val, self.test))
        return replace(self, val=val, test=test)


def balanced(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns ``count`` random positions in ``labels``, as equally many of each class as possible.

    Args:
        labels: (N,) int64.
        count: the number of positions, at most N.
        generator: the random generator.

    Returns:
        The positions (count,) int64, ascending.
    """
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    turn = F.one_hot(shuffled).cumsum(0).gather(1, shuffled[:, None])[:, 0]
    return order[turn.argsort(stable=True)[:count]].sort().values


def set_aside(whole: Split, count: int, name: str) -> tuple[Split, Split]:
    """Splits ``count`` images off as a test split, balanced over the classes; the same ``name`` gives the same images.

    Returns:
        The remaining images, and the test split.
    """
    generator = torch.Generator().manual_seed(derive(0, name, "test"))
    return _separated(whole, balanced(whole.targets, count, generator))


def _separated(split: Split, index: Tensor) -> tuple[Split, Split]:
    return split.take(_others(split.size, index)), split.take(index.sort().values)


def _others(count: int, index: Tensor) -> Tensor:
    """Returns the positions below ``count`` that are not in ``index``, ascending."""
    outside = torch.ones(count, dtype=torch.bool)
    outside[index] = False
    return outside.nonzero()[:, 0]


def _held_back(count: int, source: Source) -> Tensor:
    held = round(count * source.val_fraction)
    if not 0 < held < count:
        part = "validation" if held == 0 else "training"
        what = f"{source.val_fraction:g} leaves no {part} images of {count}; use another fraction"
        raise ConfigError("dataset.val_fraction", what)
    generator = torch.Generator().manual_seed(derive(source.split_seed, "validation"))
    return torch.randperm(count, generator=generator)[:held]


def _chosen(train: Split, source: Source) -> Tensor | None:
    """Returns the positions in ``train`` of the images that the student trains on; None if it is all of them."""
    count = source.train_size
    if count is None:
        return None
    if not 0 < count <= train.size:
        what = f"{count} of {train.size} training images; use at most {train.size}, or leave it out for all"
        raise ConfigError("dataset.train_size", what)
    generator = torch.Generator().manual_seed(derive(source.split_seed, "few"))
    labels = train.targets if source.task == "classification" else torch.zeros(train.size, dtype=torch.int64)
    return balanced(labels, count, generator)


def _missing(split: Split, part: str, source: Source) -> list[str]:
    if source.task != "classification":
        return []
    counts = torch.bincount(split.targets, minlength=source.classes).tolist()
    absent = [name for name, count in zip(source.names, counts, strict=True) if count == 0]
    return [f"no {part} images of class {', '.join(absent)}"] if absent else []


def _pad(split: Split, size: int) -> Split:
    def padded(images: Tensor) -> Tensor:
        room = size - images.shape[-1]
        before, after = room // 2, room - room // 2
        return F.pad(images, (before, after, before, after))

    images, targets = split
    if images.shape[-1] == size:
        return split
    return Split(padded(images), padded(targets) if targets.dtype == torch.uint8 else targets)
