"""The base class of data sets: where the images come from, and how they are normalized, augmented and split."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from kdrun.config.values import check_value
from kdrun.errors import ConfigError, InputError

MOST_CLASSES = 1_000_000
"""The most classes: a table of scores by class must fit in memory before any model is built."""

Task = Literal["classification", "translation"]


class Split(NamedTuple):
    """A part of a data set, as read from its files."""

    images: Tensor  # (N, C, H, W) uint8
    targets: Tensor  # (N,) int64 class ids, or (N, C, H, W) uint8 images that ``images`` are paired with

    @property
    def size(self) -> int:
        """The number of images; ``len`` of a named tuple would be its number of fields."""
        return len(self.images)

    def take(self, index: Tensor) -> Split:
        """Returns copies of the images at the positions ``index`` (int64), and of their targets."""
        return Split(self.images.index_select(0, index), self.targets.index_select(0, index))

    def to(self, device: torch.device) -> Split:
        """Returns the split on ``device``; tensors that are there already are not copied."""
        return Split(self.images.to(device), self.targets.to(device))

    def digest(self) -> str:
        """Returns the sha256, in hex, of the shapes and the bytes of images and targets."""
        seen = hashlib.sha256()
        for tensor in self:
            seen.update(repr(tuple(tensor.shape)).encode())
            seen.update(tensor.cpu().contiguous().numpy().data)
        return seen.hexdigest()


@dataclass(frozen=True, eq=False)
class Places:
    """Where the images of a split are among the training images as read."""

    index: Tensor  # (N,) int64, on the CPU
    count: int  # the number of training images as read

    def take(self, index: Tensor) -> Places:
        """Returns the places of the images at the positions ``index`` (int64)."""
        return Places(self.index[index], self.count)


@dataclass(kw_only=True)
class Source(ABC):
    """A data set; its files are opened by ``read``, not when the object is made.

    Reading it also sets ``names``, ``notes`` and ``digest``.

    Args:
        channels: channels of an image.
        size: width and height of an image, in pixels.
        classes: number of classes; for pairs of images, number of colours of the label maps.
        mean: mean per channel, of pixels in [0, 1]; a number in [-1000, 1000].
        std: standard deviation per channel, of pixels in [0, 1]; a number in [0.0001, 1000]. Target images are
            normalized by the same two numbers.
        crop: zeros to pad on each side of a training image, before a ``size`` x ``size`` crop at a random place; at
            most ``size``.
        flip: whether to mirror half of the training images, at random, from left to right.
        pad_to: zero-pad images to this size when they are read; it becomes the ``size``.
        val_fraction: the part of the training images that becomes the validation split.
        split_seed: the seed that selects the validation images.
        train_size: the number of the remaining images that the student trains on; all if None.
        view_seed: a seed that determines the view (crop and flip) of each training image in each epoch, the same for
            all runs that set it: a teacher asked by one of them knows the images of all others. Their students then
            differ less than independent ones do, so that a standard deviation over their seeds is too small. If None,
            views depend on the run's seed.

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
    view_seed: Annotated[int, "[0, inf)"] | None = None
    native: int = field(init=False)
    """Width and height of an image before padding, in pixels."""
    names: list[str] = field(init=False)
    """The names of the classes; numbers if there are no names."""
    notes: list[str] = field(default_factory=list, init=False)
    """Notes about the files for the user, one line each."""
    digest: str | None = field(default=None, init=False)
    """The sha256 of the training split, if ``read`` has computed it."""

    task: ClassVar[Task] = "classification"
    known_names: ClassVar[tuple[str, ...]] = ()
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = ()
    """The colours of the label maps, by class; empty if the data set has no label maps."""

    @property
    def from_labels(self) -> bool:
        """Whether label maps are the input of the model, and not its target."""
        return False

    def __post_init__(self) -> None:
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                what = f"{len(values)} numbers for {self.channels} channels; give one per channel"
                raise ConfigError(f"dataset.{key}", what)
        if min(self.std) <= 0:
            raise ConfigError("dataset.std", f"{min(self.std):g} would divide by zero; give numbers above 0")
        for key, values, interval in (("mean", self.mean, "[-1000, 1000]"), ("std", self.std, "[0.0001, 1000]")):
            for value in values:
                check_value(value, Annotated[float, interval], f"dataset.{key}")
        if self.task == "classification" and self.classes < 2:
            raise ConfigError("dataset.classes", f"{self.classes} is out of range [2, inf)")
        if self.classes > MOST_CLASSES:
            raise ConfigError("dataset.classes", f"{self.classes} is out of range [2, {MOST_CLASSES}]")
        self.native = self.size
        self.size = self.native if self.pad_to is None else self.pad_to
        if self.crop > self.size:
            raise ConfigError(
                "dataset.crop", f"{self.crop} would crop beside an image; use at most its {self.size} pixels"
            )
        if self.size < self.native:
            what = f"{self.pad_to} is less than the images have; use at least {self.native}"
            raise ConfigError("dataset.pad_to", what)
        numbers = [str(label) for label in range(self.classes)]
        self.names = list(self.known_names) if len(self.known_names) == self.classes else numbers

    @abstractmethod
    def read(self) -> tuple[Split, Split]:
        """Returns the training and the test split; the images are ``native`` pixels wide.

        Raises:
            InputError: if files are missing or unfit.
        """


def check(split: Split, source: Source, where: str) -> Split:
    """Returns ``split`` after checking that it has the shapes and classes of ``source``.

    Args:
        split: the split.
        source: the data set.
        where: the file or key that the error names.

    Raises:
        InputError: if counts or shapes differ, or a label is not a class.
    """
    images, targets = split
    if len(images) != len(targets):
        raise InputError(where, f"{len(images)} images but {len(targets)} labels; fetch the files again")
    if len(images) == 0:
        raise InputError(where, "holds no images; fetch the file again")
    channels, height, width = images.shape[1:]
    # a padded source copied by dataclasses.replace has lost the width of its images: ``native`` is the padded size
    padded = source.pad_to is not None and source.native == source.size and width < source.size
    if channels != source.channels or height != width or not (width == source.native or padded):
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
