"""The handwritten digits that are part of scikit-learn: real images, without a download."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch

from kdrun.data.source import Source, Split, check
from kdrun.data.splits import set_aside


@dataclass(kw_only=True)
class Digits(Source):
    """1,797 digits of 8 x 8 pixels, 174 to 183 per class: the test part of UCI's optdigits (Alpaydin, Kaynak, 1998).

    Args:
        test_size: images in the test split; always the same ones, balanced over the classes.
    """

    channels: Literal[1] = 1
    size: Literal[8] = 8
    classes: Literal[10] = 10
    mean: list[float] = field(default_factory=lambda: [0.3053])
    std: list[float] = field(default_factory=lambda: [0.3759])
    test_size: Annotated[int, "[1, 1796]"] = 450

    def read(self) -> tuple[Split, Split]:
        from sklearn.datasets import load_digits  # takes a second, and only this data set needs it

        loaded = load_digits()
        pixels = torch.from_numpy(loaded.images).mul(255 / 16).round().to(torch.uint8)  # 0 ... 16 as shipped
        whole = check(Split(pixels[:, None], torch.from_numpy(loaded.target).long()), self, "scikit-learn's digits")
        return set_aside(whole, self.test_size, "digits")
