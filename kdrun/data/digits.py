"""The handwritten digits that are part of scikit-learn: real images, without a download."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch

from kdrun.data import raw
from kdrun.data.source import Source, Split, check
from kdrun.data.splits import set_aside
from kdrun.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (1797, 65)
"""The rows and columns of the file of scikit-learn."""

AGAIN = "install scikit-learn again"


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
        table = torch.from_numpy(shipped())
        pixels = table[:, :-1].view(-1, 1, 8, 8).mul(255 / 16).round().to(torch.uint8)  # 0 ... 16 as shipped
        whole = check(Split(pixels, table[:, -1].long()), self, "scikit-learn's digits")
        return set_aside(whole, self.test_size, "digits")


def shipped() -> NDArray[np.float64]:
    """Returns the table (1797, 65) that scikit-learn ships: the pixels of an image in 0 ... 16, and its class.

    Its file is read as ``sklearn.datasets.load_digits`` does, without the import of scikit-learn, which takes a second.

    Raises:
        InputError: if scikit-learn is not installed, or the file is not as it was shipped.
    """
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise InputError("dataset", f"digits are a file of scikit-learn, which is not installed; {AGAIN}")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with raw.opened(path) as file:
        content = raw.take(file, path, raw.capacity(path))
    try:
        table = np.loadtxt(content.decode("ascii").splitlines(), delimiter=",")
    except ValueError as error:
        raise InputError(str(path), f"is not a table of numbers; {AGAIN}") from error
    if table.shape != SHAPE:
        raise InputError(str(path), f"has not the {SHAPE[0]} rows of {SHAPE[1]} numbers of the digits; {AGAIN}")
    return table
