"""The teacher table: what a frozen model says of each view of each training image, computed once and kept."""

from __future__ import annotations

import inspect
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdrun.core.models import OURS, Trained
from kdrun.data import augment
from kdrun.data.splits import Data
from kdrun.errors import TrainingError, WriteError
from kdrun.store import files, weights
from kdrun.store.model_store import key
from kdrun.store.table_file import TableFile, size
from kdrun.train.runtime import Runtime
from kdrun.train.stage import Batch, Outputs, Pass

AUTO = 4 << 30
"""The most bytes that all tables of a store take together where no budget is set, at most a tenth of the free disk."""

BLOCK = {"cpu": 64, "cuda": 512}
"""Images per forward pass, by device. Always the same number: the last bits of a row depend on it."""

CHUNK = 8 << 20
"""The most bytes of a table that are in memory at a time."""

Ints = NDArray[np.int64]

UNITS = {"KB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000, "TB": 1_000_000_000_000}


def budget_of(setting: str) -> int:
    """Returns the bytes that a ``teacher.table`` such as ``2GB`` allows."""
    number = setting.rstrip("KMGTB")
    return int(float(number) * UNITS[setting[len(number) :]])


def text(count: int) -> str:
    """Returns a number of bytes as text, such as ``389 MB``."""
    unit = next((unit for unit in ("TB", "GB", "MB") if count >= UNITS[unit]), "KB")
    return f"{count / UNITS[unit]:.3g} {unit}"


@dataclass
class Tables:
    """The teacher tables of a run.

    Args:
        folder: the folder of their files, in the store.
        notice: called with one line for the user: what a table does, or why there is none.
        setting: ``teacher.table``: ``auto``, ``off`` or a size such as ``2GB``.
        dtype: the type of what is stored, float32 or float16; what is stored is what is used.
    """

    folder: Path
    notice: Callable[[str], None]
    setting: str = "auto"
    dtype: np.dtype[Any] = field(default_factory=lambda: np.dtype("float32"))
    opened: dict[tuple[int, ...], tuple[Trained, TeacherTable | str]] = field(default_factory=dict)

    @property
    def is_rounded(self) -> bool:
        """Whether students are trained on rounded outputs."""
        return self.setting != "off" and self.dtype == np.float16

    def recall(self, model: Trained, batch: Batch, data: Data, runtime: Runtime) -> Outputs:
        """Returns the outputs of the frozen ``model`` for ``batch``, from its table where it has one."""
        if batch.source is None or data.rehearsed or self.setting == "off":
            return model(batch.images)
        which = id(model), len(model.all_taps)  # a method may add taps between two stages
        if which not in self.opened:
            table = self._open(model, batch, data, runtime)
            if isinstance(table, str):
                self.notice(f"teacher table: off, {table}; {model.name} is run on every batch")
            self.opened[which] = model, table
        table = self.opened[which][1]
        return model(batch.images) if isinstance(table, str) else table(batch)

    def _open(self, model: Trained, batch: Batch, data: Data, runtime: Runtime) -> TeacherTable | str:
        """Returns the table of ``model``, or why it has none."""
        if (code := code_of(model.model)) is None:
            return f"the code of {model.name} is in no file"
        fields = {**describe(model, code, data, runtime), "numbers": self.dtype.name}
        count = data.train_places.count
        shapes = model.shapes(batch.images[:1])
        views, width = augment.views(data.source.crop, data.source.flip), sum(map(math.prod, shapes))
        path, most = self.folder / f"{model.name}-{key(fields)[:12]}.table", size(views * count, width, self.dtype)
        what = f"{model.name}'s outputs for {views} view{'s' * (views > 1)} of {count:,} images"
        if width * self.dtype.itemsize * len(batch.images) > CHUNK:
            return f"{what} are too large, {text(most)}"
        if refused := self._refused(path, most):
            return f"{what} take {text(most)}, {refused}"
        try:
            file = TableFile(path, fields, views * count, width, self.dtype)
        except (OSError, WriteError) as error:
            reason = error.__cause__ if isinstance(error, WriteError) else error
            return f"{path} cannot be used ({getattr(reason, 'strerror', '') or reason})"
        if file.is_new:  # said once, not by every job of a sweep
            self.notice(f"teacher table: {what} are kept, at most {text(most)}, in {path}")
        return TeacherTable(model, file, shapes, count, runtime, self.notice)

    def _refused(self, path: Path, most: int) -> str:
        """Returns why a table of ``most`` bytes may not be kept; empty if it may."""
        others = sum(other.stat().st_size for other in self.folder.glob("*.table") if other != path)
        is_auto, free = self.setting == "auto", free_bytes(self.folder)
        if others + most > (budget := AUTO if is_auto else budget_of(self.setting)):
            return f"and the others {text(others)}, more than the {text(budget)} of teacher.table={self.setting}"
        if not path.exists() and most > (free // 10 if is_auto else free):
            return f"more than {'a tenth of ' if is_auto else ''}the {text(free)} of free disk"
        return ""


def free_bytes(folder: Path) -> int:
    """Returns the free bytes of the disk that ``folder`` is or will be on."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def code_of(model: nn.Module) -> list[str] | None:
    """Returns the sha256 of the files with the code of the modules of ``model``, apart from kdrun's and torch's.

    Returns None if the code of one of them is in no file, as of a class made at a prompt.
    """
    classes = {type(module) for module in model.modules()}
    try:
        paths = {inspect.getfile(cls) for cls in classes if cls.__module__.partition(".")[0] not in OURS}
        return sorted(files.digest(Path(path)) for path in paths)
    except (TypeError, OSError):
        return None


def describe(model: Trained, code: list[str], data: Data, runtime: Runtime) -> dict[str, Any]:
    """Returns everything that the outputs of ``model`` for the views of the training images depend on."""
    source = data.source
    return {
        "weights": weights.digest(model.model.state_dict(), repr(model.model)),
        "code": code,
        "taps": model.all_taps,
        "precision": runtime.precision,
        "environment": {**runtime.environment(), "compile": runtime.compile},
        "data": data.digest,
        "images": [data.train_places.count, source.channels, source.size],
        "normalization": [source.mean, source.std],
        "augmentation": [source.crop, source.flip, source.pad_to],
        "block": BLOCK[runtime.device.type],
    }


class TeacherTable:
    """The outputs of one frozen model, read from its file and completed in blocks of one fixed size.

    The last bits of an image's outputs depend on the size of the block and, for some nets, on the image's place in it:
    a matrix product treats its last rows in another way. So an image always has the same place, its index modulo the
    size. A pass over the data says beforehand which images come in which views: rows that are missing are computed when
    their batch comes, together with others of later batches, which fill the block.

    Args:
        model: the frozen model.
        file: the file of its table; an image's row is ``view * images + index``.
        shapes: the shapes of its outputs for one image: the logits, then the tapped features.
        images: the number of training images as read.
        runtime: the device.
        notice: called with one line where something is not as it should be.
    """

    def __init__(
        self,
        model: Trained,
        file: TableFile,
        shapes: list[torch.Size],
        images: int,
        runtime: Runtime,
        notice: Callable[[str], None],
    ) -> None:
        self.model, self.file, self.images, self.device, self.notice = model, file, images, runtime.device, notice
        self.shapes, self.ends = shapes, np.cumsum([0, *map(math.prod, shapes)]).tolist()
        self.block = BLOCK[self.device.type]
        self.chunk = CHUNK // (file.width * file.dtype.itemsize)
        self.source: Pass | None = None
        self.low = self.high = 0  # the rows of the pass that are in memory
        self.is_writable, self.is_compared = True, False

    def __call__(self, batch: Batch) -> Outputs:
        """Returns the outputs for ``batch``, which is part of a pass."""
        begin, end = batch.begin, batch.begin + len(batch.images)
        assert batch.source is not None
        if batch.source is not self.source or not self.low <= begin < end <= self.high:
            self._load(batch.source, begin)
        while self.computed < self.needed[end - self.low - 1]:
            self._compute(batch.source)
        self.model.count(end - begin, 0)
        rows = self.rows[begin - self.low : end - self.low]
        pieces = zip(self.shapes, self.ends, self.ends[1:], strict=False)
        # copies: a method may change them, and autograd refuses tensors that share memory with a later row
        logits, *features = (
            rows[:, first:last].to(torch.float32, copy=True).reshape(-1, *shape) for shape, first, last in pieces
        )
        return Outputs(logits, features)

    def _load(self, source: Pass, low: int) -> None:
        """Reads a chunk of the pass from its row ``low`` on, and plans the blocks that compute what it lacks."""
        self.source, self.low, self.high = source, low, min(low + self.chunk, len(source.index))
        index, view = (each[self.low : self.high].numpy() for each in (source.index, source.view))
        self.places = view * self.images + index
        numbers, valid = self.file.read(self.places)
        if self.file.damaged:
            self.notice(f"teacher table: {self.file.damaged} damaged rows of {self.file.path} are computed anew")
            self.file.damaged = 0
        self.plan, self.needed = planned(np.flatnonzero(~valid), index, self.block)
        self.blocks = torch.from_numpy(self.plan).to(self.device)
        spare = np.zeros_like(numbers, shape=(1, numbers.shape[1]))  # takes what the fillers of a block give
        self.rows = torch.from_numpy(np.concatenate([numbers, spare])).to(self.device)
        self.computed = self.written = 0  # blocks

    def _compute(self, source: Pass) -> None:
        """Computes the next block."""
        rows, count = self.blocks[self.computed], int((self.plan[self.computed] >= 0).sum())
        images = source.images(torch.where(rows < 0, rows.max(), rows) + self.low)
        numbers = self._numbers(images)
        if not self.is_compared:
            self._compare(images, numbers)
        self.model.count(-self.block, count - self.block)  # none is asked for yet, and fillers do not count
        self.rows[rows] = numbers  # row -1 is the spare one
        self.computed += 1
        if self.device.type == "cpu" or self.computed == len(self.plan):  # elsewhere each write waits for the device
            self._write()

    def _numbers(self, images: Tensor) -> Tensor:
        """Returns the outputs (N, width) for ``images``, as they are stored."""
        logits, features = self.model(images)
        return torch.cat([part.flatten(1).float() for part in (logits, *features)], 1).to(self.rows.dtype)

    def _compare(self, images: Tensor, numbers: Tensor) -> None:
        """Says it if the outputs for an image depend on the other images of the block, once for each run."""
        self.is_compared = True
        others = images.clone()
        others[1::2] = images[:1]
        if not torch.equal(self._numbers(others)[::2], numbers[::2]):
            what = f"the last bits of {self.model.name}'s outputs depend on the other images of a block on this device"
            self.notice(f"teacher table: {what}; runs that share it may differ by them, teacher.table=off keeps none")
        self.model.count(-self.block, -self.block)

    def _write(self) -> None:
        """Writes the computed rows to the file; where that is not possible, later runs compute them again."""
        new = self.plan[self.written : self.computed]
        new = new[new >= 0]
        numbers = self.rows[torch.from_numpy(new).to(self.device)].cpu().numpy()
        self.written = self.computed
        if self.file.dtype == np.float16 and np.isinf(numbers).any():
            what = f"outputs of {self.model.name} exceed 65504, the largest number of fp16; use fp32"
            raise TrainingError("teacher.table_precision", what)
        if not self.is_writable:
            return
        try:
            self.file.write(self.places[new], numbers)
        except OSError as error:
            self.is_writable = False
            what = f"{self.file.path} cannot be written ({error.strerror}); what it lacks is computed in every run"
            self.notice(f"teacher table: {what}")


def planned(missing: Ints, index: Ints, block: int) -> tuple[Ints, list[int]]:
    """Plans the blocks that compute the ``missing`` rows of a chunk, each image at its place in a block.

    Args:
        missing: (M,) rows of the chunk, ascending.
        index: (N,) the images of all its rows.
        block: images per block.

    Returns:
        The row at each place of each block (B, block), -1 for a filler; and for each row of the chunk how many blocks
        are needed until it and all rows before it are known.
    """
    slots = index[missing] % block
    order = np.argsort(slots, kind="stable")
    counts = np.bincount(slots, minlength=block)
    turns = np.empty_like(missing)  # the first row of each slot is in block 0, the second in block 1, and so on
    turns[order] = np.arange(len(missing)) - np.repeat(np.cumsum(counts) - counts, counts)
    plan = np.full((counts.max(), block), -1)
    plan[turns, slots] = missing
    needed = np.zeros(len(index), dtype=np.int64)
    needed[missing] = turns + 1
    return plan, np.maximum.accumulate(needed).tolist()
