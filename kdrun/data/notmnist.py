"""notMNIST: the letters A to J in many fonts, as idx files or as the published PNG files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch

from kdrun.data import pictures
from kdrun.data.cache import cached
from kdrun.data.idx import Idx
from kdrun.data.source import Split, check
from kdrun.data.splits import set_aside
from kdrun.errors import InputError

LETTERS = tuple("ABCDEFGHIJ")


@dataclass(kw_only=True)
class NotMNIST(Idx):
    """Letters of 28 x 28 pixels (Y. Bulatov, 2011): four idx files, or folders A ... J of PNG files.

    PNG files that cannot be read are left out and counted; the published set has two of them.

    Args:
        test_fraction: the part of the PNG files that becomes the test split: always the same files, balanced over the
            letters. The idx files have their own test split.
    """

    channels: Literal[1] = 1
    size: Literal[28] = 28
    classes: Literal[10] = 10
    mean: list[float] = field(default_factory=lambda: [0.4254])
    std: list[float] = field(default_factory=lambda: [0.4586])
    test_fraction: Annotated[float, "(0, 1)"] = 0.2
    folder: ClassVar[str] = "notMNIST"
    instead: ClassVar[str] = "(or folders A to J of PNG files beside raw)"
    known_names: ClassVar[tuple[str, ...]] = LETTERS

    def read(self) -> tuple[Split, Split]:
        places = [Path(self.root, name) for name in ("notMNIST", "notMNIST_small", "notMNIST/notMNIST_small")]
        lettered = [place for place in places if all((place / letter).is_dir() for letter in LETTERS)]
        if not self.missing() or not lettered:
            return super().read()
        paths = [path for letter in LETTERS for path in pictures.listed(lettered[0] / letter)]
        splits = cached(self, lettered[0], paths, lambda: self._parse(paths))
        self.notes = [*self.notes, *pictures.outside(lettered[0], paths)]
        return splits

    def _parse(self, paths: list[Path]) -> tuple[Split, Split]:
        faults: list[str] = []
        images, kept = pictures.gathered(paths, (1, 28, 28), _load, faults)
        if faults:
            self.notes = [f"{len(faults)} of {len(paths)} files are left out, as {faults[0]}"]
        labels = torch.tensor([LETTERS.index(path.parent.name) for path in paths])[kept]
        whole = check(Split(images, labels), self, self.root)
        return set_aside(whole, round(whole.size * self.test_fraction), "notmnist")


def _load(path: Path, room: pictures.Room) -> np.ndarray:
    with pictures.opened(path, "L", room) as image:
        if image.size != (28, 28):
            raise InputError(str(path), f"is {image.width} x {image.height} pixels, 28 x 28 expected")
        return pictures.pixels(image)
