"""Cityscapes: pairs of a street photograph and its label map, for image translation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from PIL import Image

from kdrun.data import pictures
from kdrun.data.cache import cached
from kdrun.data.source import Source, Split, Task, check
from kdrun.errors import InputError

COLOURS = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
"""The colours of the 19 scored classes, in the order of the benchmark (M. Cordts et al., 2016, arXiv:1604.01685)."""


@dataclass(kw_only=True)
class Cityscapes(Source):
    """2,975 + 500 pairs of photograph and label map, resized to squares; the validation part is the test split.

    The label maps of ``layout=pairs`` are JPEG files, so their colours are only close to those of ``palette``.

    Args:
        root: the folder of all data sets.
        layout: ``pairs`` is the version of pix2pix, ``root/cityscapes/{train,val}/*.jpg``, with the photograph in the
            left half and the label map in the right half; ``official`` is ``root/cityscapes/{leftImg8bit,gtFine}``.
        direction: which of the two is the input of a model, and which is its target.
    """

    channels: Literal[3] = 3
    size: Annotated[int, "[1, inf)"] = 64
    classes: Literal[19] = 19
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    root: str = "data"
    layout: Literal["pairs", "official"] = "pairs"
    direction: Literal["photo_to_label", "label_to_photo"] = "photo_to_label"
    task: ClassVar[Task] = "translation"
    known_names: ClassVar[tuple[str, ...]] = tuple(COLOURS)
    palette: ClassVar[tuple[tuple[int, int, int], ...]] = tuple(COLOURS.values())

    @property
    def from_labels(self) -> bool:
        return self.direction == "label_to_photo"

    def read(self) -> tuple[Split, Split]:
        train, test = self._paths("train"), self._paths("val")
        splits = cached(self, self._place, train + test, lambda: (self._split(train), self._split(test)))
        self.notes = [*self.notes, *pictures.outside(self._place, train + test)]
        return splits

    @property
    def _place(self) -> Path:
        return Path(self.root) / "cityscapes"

    def _paths(self, part: str) -> list[Path]:
        """Returns the files of a part: the pairs, or each photograph followed by its label map."""
        official = self.layout == "official"
        place = self._place / ("leftImg8bit" if official else "") / part
        if official:
            photos = sorted(place.glob("*/*_leftImg8bit.png"))
            paths = [path for photo in photos for path in (photo, self._label_of(photo))]
        else:
            paths = pictures.listed(place) if place.is_dir() else []
        if not paths:
            what = f"no images in '{place}' (dataset.layout={self.layout}); Cityscapes cannot be downloaded freely: "
            raise InputError("dataset.root", f"{what}register at cityscapes-dataset.com and place them there")
        return paths

    def _label_of(self, photo: Path) -> Path:
        name = photo.name.replace("_leftImg8bit", "_gtFine_color")
        path = self._place / "gtFine" / photo.parent.parent.name / photo.parent.name / name
        if not path.is_file():
            raise InputError(str(path), f"no such file, and {photo} needs it for a label map")
        return path

    def _split(self, paths: list[Path]) -> Split:
        shape = (3, self.native, self.native)
        if self.layout == "pairs":
            both, _ = pictures.gathered(paths, (2, *shape), self._load_pair)
            photos, labels = both[:, 0], both[:, 1]
        else:
            photos, _ = pictures.gathered(paths[::2], shape, self._load)
            labels, _ = pictures.gathered(paths[1::2], shape, self._load_label)
        inputs, targets = (photos, labels) if self.direction == "photo_to_label" else (labels, photos)
        return check(Split(inputs.contiguous(), targets.contiguous()), self, self.root)

    def _load(self, path: Path, room: pictures.Room) -> np.ndarray:
        with pictures.opened(path, "RGB", room) as image:
            return self._fitted(image, exact=False)

    def _load_label(self, path: Path, room: pictures.Room) -> np.ndarray:
        with pictures.opened(path, "RGB", room) as image:
            return self._fitted(image, exact=True)

    def _load_pair(self, path: Path, room: pictures.Room) -> np.ndarray:
        with pictures.opened(path, "RGB", room) as image:
            half = image.width // 2
            if image.width != 2 * half or half == 0:
                raise InputError(str(path), f"is {image.width} pixels wide; a pair has two halves of the same width")
            photo, label = image.crop((0, 0, half, image.height)), image.crop((half, 0, image.width, image.height))
            return np.stack([self._fitted(photo, exact=False), self._fitted(label, exact=True)])

    def _fitted(self, image: Image.Image, exact: bool) -> np.ndarray:
        return pictures.pixels(pictures.fitted(image, self.native, "stretch", exact))
