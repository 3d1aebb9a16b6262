"""A folder of the user's own images, with one subfolder per class."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch

from kdrun.data import pictures
from kdrun.data.cache import cached
from kdrun.data.source import Source, Split, check
from kdrun.data.splits import set_aside
from kdrun.errors import ConfigError, InputError, printable


@dataclass(kw_only=True)
class Folder(Source):
    """Image files in ``root/<class>``, or in ``root/train/<class>`` and ``root/test/<class>`` (or ``val``).

    All files are decoded at the start, so that none fails later. The classes are the folders, sorted by name.

    Args:
        root: the folder.
        classes: the number of classes; 0 counts the folders when the object is made.
        channels: 1 converts images to grey, 3 gives grey images three equal channels.
        fit: ``stretch`` scales width and height each to ``size``; ``crop`` scales the shorter one and cuts out the
            centre.
        test_fraction: the part of the images that becomes the test split if there is no folder for it; always the same
            images, balanced over the classes.

    Raises:
        InputError: if ``classes`` is 0 and there are no folders to count.
    """

    channels: Literal[1, 3] = 3
    size: Annotated[int, "[1, inf)"] = 32
    classes: Annotated[int, "[0, inf)"] = 0
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    crop: Annotated[int, "[0, inf)"] = 4
    flip: bool = True
    root: str = "data/images"
    fit: pictures.Fit = "crop"
    test_fraction: Annotated[float, "(0, 1)"] = 0.2

    def __post_init__(self) -> None:
        counted = self.classes or len(self._class_folders())
        self.classes = counted
        super().__post_init__()

    def read(self) -> tuple[Split, Split]:
        paths = self._class_folders()
        if len(paths) != self.classes:
            what = f"{self.classes}, but {paths[0].parent} has {len(paths)} folders; leave it out to count them"
            raise ConfigError("dataset.classes", what)
        self.names = [printable(folder.name) for folder in paths]
        self._labels = {folder.name: label for label, folder in enumerate(paths)}
        train, test = [path for folder in paths for path in _images(folder)], self._test_paths()
        splits = cached(self, Path(self.root), train + test, lambda: self._parse(train, test))
        self.notes = [*self.notes, *pictures.outside(Path(self.root), train + test)]
        return splits

    def _class_folders(self) -> list[Path]:
        root = Path(self.root)
        if not root.is_dir():
            raise InputError("dataset.root", f"no such folder '{root}'; give a folder with one subfolder per class")
        place = root / "train" if (root / "train").is_dir() else root
        paths = _folders(place)
        if len(paths) < 2:
            many = f"only the folder '{paths[0].name}'" if paths else "no folders"
            raise InputError("dataset.root", f"{many} in '{place}'; put the images of each class into its own folder")
        return paths

    def _test_paths(self) -> list[Path]:
        root = Path(self.root)
        if not (root / "train").is_dir():
            return []
        place = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
        if place is None:
            return []
        for folder in _folders(place):
            if folder.name not in self._labels:
                raise InputError(str(folder), f"no such class in {root / 'train'}; rename or remove it")
        return [path for folder in _folders(place) for path in pictures.listed(folder)]

    def _parse(self, train: list[Path], test: list[Path]) -> tuple[Split, Split]:
        whole = self._split(train)
        if test:
            return whole, self._split(test)
        return set_aside(whole, round(whole.size * self.test_fraction), "folder")

    def _split(self, paths: list[Path]) -> Split:
        images, _ = pictures.gathered(paths, (self.channels, self.native, self.native), self._load)
        labels = torch.tensor([self._labels[path.parent.name] for path in paths], dtype=torch.int64)
        return check(Split(images, labels), self, self.root)

    def _load(self, path: Path, room: pictures.Room) -> np.ndarray:
        with pictures.opened(path, "L" if self.channels == 1 else "RGB", room) as image:
            return pictures.pixels(pictures.fitted(image, self.native, self.fit))


def _folders(place: Path) -> list[Path]:
    paths = [path for path in pictures.entries(place) if path.name[0] != "_"]
    for path in paths:
        if path.is_symlink() and not path.exists():
            raise InputError(str(path), "is a link that leads nowhere; replace or remove it")
    return [path for path in paths if path.is_dir()]


def _images(folder: Path) -> list[Path]:
    paths = pictures.listed(folder)
    if not paths:
        raise InputError(str(folder), "counts as a class, but holds no images; put some in, or remove it")
    return paths
