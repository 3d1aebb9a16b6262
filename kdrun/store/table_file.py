"""The file of a teacher table: rows of numbers that several processes read and fill, each row with a checksum."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from kdrun.store import files

HEADER = 4096
"""Bytes before the first row: what the table is of, as JSON, filled up with blanks."""

SUM = np.dtype("<u8")
"""The type of a row's checksum."""

WORD = 4
"""Bytes of a word; checksums are of whole words."""

LOCK_SECONDS = 30.0

MIX = 0x9E3779B97F4A7C15
"""An odd number, which spreads the places of rows over all checksums."""


class TableFile:
    """A table of ``rows`` rows of ``width`` numbers, in a sparse file whose size is that of the whole table.

    A row is valid if the checksum behind it fits its numbers and its place. A row that was never written has none, and
    one that was half written or altered has a wrong one: both are returned as missing. So a killed writer leaves a
    valid table, and writers need no lock: whoever writes a row writes the same numbers.

    Args:
        path: the file; made if it does not exist, or is the table of anything else.
        fields: what the numbers depend on.
        rows: the number of rows.
        width: the numbers of a row.
        dtype: their type, float32 or float16.

    Raises:
        OSError, WriteError: if it cannot be made or mapped.
    """

    def __init__(self, path: Path, fields: Mapping[str, Any], rows: int, width: int, dtype: np.dtype[Any]) -> None:
        self.path, self.rows, self.width, self.dtype = path, rows, width, dtype
        self.damaged = 0  # rows with a wrong checksum that were read so far
        words = words_of(width, dtype)
        self._record = np.dtype([("numbers", dtype, (words * WORD // dtype.itemsize,)), ("sum", SUM)])
        self._factors = np.random.default_rng(0).integers(0, 1 << 63, words, dtype=np.uint64) * 2 + 1
        head = json.dumps({**fields, "rows": rows, "width": width, "dtype": dtype.name}, sort_keys=True).encode()
        if len(head) > HEADER:
            raise OSError("the header of the table is too long")
        self._header = head.ljust(HEADER)
        with FileLock(files.folder(path.parent) / ".lock", timeout=LOCK_SECONDS, fallback_to_soft=False):
            self.is_new = not self._is_ours()
            if self.is_new:
                files.write(path, self._header, self.size)
        self._map = np.memmap(path, self._record, "r", HEADER, (rows,))

    @property
    def size(self) -> int:
        """The bytes of the file once every row is written."""
        return size(self.rows, self.width, self.dtype)

    def read(self, places: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Returns the rows at ``places``, and which of them are valid; the numbers of the others mean nothing."""
        records = self._map[places]
        valid = records["sum"] == self._sums(records["numbers"], places)
        self.damaged += int(((records["sum"] != 0) & ~valid).sum())
        return np.ascontiguousarray(records["numbers"][:, : self.width]), valid

    def write(self, places: NDArray[np.int64], numbers: NDArray[Any]) -> None:
        """Writes ``numbers``, a row for each of ``places``; not through the map, where a full disk ends the process.

        Raises:
            OSError: if the disk is full.
        """
        records = np.zeros(len(places), self._record)
        records["numbers"][:, : self.width] = numbers
        records["sum"] = self._sums(records["numbers"], places)
        with self.path.open("r+b", buffering=0) as file:
            for place, record in zip(places.tolist(), records, strict=True):
                os.pwrite(file.fileno(), record.tobytes(), HEADER + place * self._record.itemsize)

    def _sums(self, numbers: NDArray[Any], places: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Returns a checksum for each row: it is another one if any single word of 32 bits is another one."""
        words = np.ascontiguousarray(numbers).view(np.uint32).astype(np.uint64)
        sums: NDArray[np.uint64] = (words * self._factors).sum(1, dtype=np.uint64)
        return sums + (places.astype(np.uint64) + np.uint64(1)) * np.uint64(MIX)

    def _is_ours(self) -> bool:
        try:
            with self.path.open("rb") as file:
                return file.read(HEADER) == self._header and os.fstat(file.fileno()).st_size == self.size
        except FileNotFoundError:
            return False


def size(rows: int, width: int, dtype: np.dtype[Any]) -> int:
    """Returns the bytes of a table once every row is written."""
    return HEADER + rows * (words_of(width, dtype) * WORD + SUM.itemsize)


def words_of(width: int, dtype: np.dtype[Any]) -> int:
    """Returns the words that a row of ``width`` numbers takes."""
    return -(-width * dtype.itemsize // WORD)
