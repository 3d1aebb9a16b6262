"""What a data set is: where its images come from, how they are shown to a model."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from kdrun.errors import ConfigError, InputError

Task = Literal["classification", "translation"]


class Split(NamedTuple):
    """Part of a data set, as read."""

    images: Tensor  # (N, C, H, W) uint8
    targets: Tensor  # (N,) int64 class ids, or (N, C, H, W) uint8 what the images are paired with

    @property
    def size(self) -> int:
        """The number of images; ``len`` of a named tuple is that of its fields."""
        return len(self.images)

    def take(self, index: Tensor) -> Split:
        """Returns a copy of the images at the places ``index`` (int64), with their targets."""
        return Split(self.images.index_select(0, index), self.targets.index_select(0, index))

    def to(self, device: torch.device) -> Split:
        """Returns the split on ``device``; itself where it is there already."""
        return Split(self.images.to(device), self.targets.to(device))

    def digest(self) -> str:
        """Returns the sha256, in hex, of shapes and bytes."""
        seen = hashlib.sha256()
        for tensor in self:
            seen.update(repr(tuple(tensor.shape)).encode())
            seen.update(tensor.contiguous().numpy().data)
        return seen.hexdigest()


@dataclass(kw_only=True)
class Source(ABC):
    """A data set before it is read; making one opens no file.

    Reading it also sets ``names``, ``notes`` and ``digest``.

    Args:
        channels: of an image.
        size: of an image in pixels, which is square.
        classes: how many there are; where images are paired with images, how many colours the label maps have.
        mean: per channel, of pixels in [0, 1].
        std: per channel, of pixels in [0, 1]. Images that are targets are normalized by the same two numbers.
        crop: train on ``size`` x ``size`` cuts, at random places, of images padded with as many zeros on each side.
        flip: mirror every other training image, on average, from left to right.
        pad_to: zero-pad images to this size when they are read, and make this the ``size``.
        val_fraction: of the training images, held back for validation.
        split_seed: decides which these are.
        train_size: the student trains on so many of the remaining images only; on all where None.

    Raises:
        ConfigError: if the numbers contradict each other.
    """

    channels: Annotated[int, "[1, inf)"]
    size: Annotated[int, "[1, inf)"]
    classes: Annotated[int, "[1, inf)"]
    mean: list[float]
    std: list[float]
    crop: Annotated[int, "[0, inf)"] = 0
    flip: bool = False
    pad_to: Annotated[int, "[1, inf)"] | None = None
    val_fraction: Annotated[float, "(0, 1)"] = 0.1
    split_seed: Annotated[int, "[0, inf)"] = 0
    train_size: Annotated[int, "[1, inf)"] | None = None
    native: int = field(init=False)
    """Pixels of an image before padding."""
    names: list[str] = field(init=False)
    """What the classes are called: numbers, unless known better."""
    notes: list[str] = field(default_factory=list, init=False)
    """What a user should know of the files, one line each."""
    digest: str | None = field(default=None, init=False)
    """Of the training images, where reading had to find it out anyway."""

    task: ClassVar[Task] = "classification"
    known_names: ClassVar[tuple[str, ...]] = ()
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = ()
    """The colours of the label maps, by class, where images are paired with such."""

    @property
    def labels_given(self) -> bool:
        """Whether the label maps, where there are such, are what a model is given, not what it is to make."""
        return False

    def __post_init__(self) -> None:
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                what = f"{len(values)} numbers for {self.channels} channels; give one per channel"
                raise ConfigError(f"dataset.{key}", what)
        if min(self.std) <= 0:
            raise ConfigError("dataset.std", f"{min(self.std):g} would divide by zero; give numbers above 0")
        if self.task == "classification" and self.classes < 2:
            raise ConfigError("dataset.classes", f"{self.classes} is out of range [2, inf)")
        self.native = self.size
        self.size = self.native if self.pad_to is None else self.pad_to
        if self.size < self.native:
            what = f"{self.pad_to} is less than the images have; use at least {self.native}"
            raise ConfigError("dataset.pad_to", what)
        numbers = [str(label) for label in range(self.classes)]
        self.names = list(self.known_names) if len(self.known_names) == self.classes else numbers

    @abstractmethod
    def read(self) -> tuple[Split, Split]:
        """Returns the training and the test images, ``native`` pixels wide.

        Raises:
            InputError: if files are missing or unfit.
        """


def check(split: Split, source: Source, where: str) -> Split:
    """Returns ``split`` if it is what ``source`` says; ``where`` is the file or key to blame if it is not.

    Raises:
        InputError: if counts or shapes disagree, or if a label is no class.
    """
    images, targets = split
    if len(images) != len(targets):
        raise InputError(where, f"{len(images)} images but {len(targets)} labels; fetch the files again")
    if len(images) == 0:
        raise InputError(where, "holds no images; fetch the file again")
    channels, height, width = images.shape[1:]
    # a padded source copied by dataclasses.replace has forgotten how wide its images were
    if channels != source.channels or height != width or not (width == source.native or width < source.size):
        wanted = f"{source.channels} x {source.native} x {source.native}"
        raise InputError(where, f"images are {channels} x {height} x {width}, {wanted} by dataset.channels and .size")
    if source.task == "classification":
        _check_labels(targets, source.classes, where)
    return split


def _check_labels(labels: Tensor, classes: int, where: str) -> None:
    wrong = ((labels < 0) | (labels >= classes)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(where, f"label {int(labels[row])} at row {row}, dataset.classes={classes}")
