"""Makes hostile and unfit checkpoints."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from battery.stock import teacher

Write = Callable[[Path], object]


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def named(module: str, name: str, *args: Any) -> bytes:
    """Returns a pickle that calls a function by its name, as an attacker writes it."""
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + pickle.dumps(args, 2)[2:-1] + b"R."


def saved(content: Any, **options: Any) -> Write:
    """Writes ``content`` as torch does."""
    return lambda path: torch.save(content, path, **options)


def later(content: Callable[[], Any]) -> Write:
    """Writes what ``content`` makes, which is large, only when it is needed."""
    return lambda path: torch.save(content(), path)


def many_names(shape: tuple[int, ...], count: int) -> dict[str, Tensor]:
    """Returns many tensors that are views of one row."""
    row = torch.zeros(shape[-1])
    return {f"n{number}": row.expand(shape) for number in range(count)}


def code(module: str, name: str, *args: Any) -> Write:
    """Writes a checkpoint whose pickle calls a function."""
    return lambda path: zipped(path, named(module, name, *args))


def zipped(path: Path, pickled: bytes, members: dict[str, bytes] | None = None, how: int = zipfile.ZIP_STORED) -> None:
    """Writes a zip like torch's, with the given pickle."""
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in {
            "data.pkl": pickled,
            "byteorder": b"little",
            "version": b"3\n",
            **(members or {}),
        }.items():
            archive.writestr(f"x/{name}", content)


def parts(content: Any) -> dict[str, bytes]:
    """Returns the members of the zip in which torch saves ``content``, by name."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return {info.filename.partition("/")[2]: archive.read(info) for info in archive.infolist()}


def compressed(path: Path) -> None:
    members = parts({"hidden1.1.weight": torch.zeros(40_000_000)})
    zipped(
        path,
        members.pop("data.pkl"),
        {name: content for name, content in members.items() if name.startswith("data/")},
        zipfile.ZIP_DEFLATED,
    )


def sharing(path: Path, count: int = 300, numbers: int = 1_000_000) -> None:
    """Many tensors, whose entries in the zip are one and the same member."""
    members = parts({str(number): torch.zeros(1) for number in range(count)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", widened(members["data.pkl"], numbers))
        archive.writestr("x/version", b"3\n")
        archive.writestr("x/data/0", bytes(4 * numbers))
        first = archive.filelist[-1]
        for number in range(1, count):
            other = zipfile.ZipInfo(f"x/data/{number}")
            for name in ("header_offset", "CRC", "compress_size", "file_size", "create_system", "external_attr"):
                setattr(other, name, getattr(first, name))
            archive.filelist.append(other)


def widened(pickled: bytes, numbers: int) -> bytes:
    """Returns a pickle whose storages of one number have more."""
    return pickled.replace(b"K\x01t", b"J" + struct.pack("<i", numbers) + b"t")


def header(text: bytes, length: int | None = None, body: bytes = b"") -> Write:
    """Writes a safetensors file with this header."""
    return lambda path: path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def sized(dtype: str, shape: str, begin: int, end: int, body: int = 0) -> Write:
    text = f'{{"hidden1.1.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}}}'
    return header(text.encode(), body=bytes(body))


def sparse(size: int) -> Write:
    """Writes a file of ``size`` bytes that takes no room on the disk, beginning as a checkpoint does."""

    def write(path: Path) -> None:
        torch.save(teacher(), path)
        with path.open("r+b") as file:
            file.truncate(size)

    return write


def changed(**changes: Any) -> dict[str, Any]:
    """Returns the right weights, some of them replaced, by the last part of their names (``fc_weight``)."""
    return {name: changes.get(name.replace(".", "_"), value) for name, value in teacher().items()}


def each(change: Callable[[Tensor], Any]) -> dict[str, Any]:
    return {name: change(value) for name, value in teacher().items()}


def one_value(value: float) -> dict[str, Tensor]:
    """Returns the right weights with one of them replaced by ``value``."""
    state = teacher()
    state["fc.weight"].view(-1)[3] = value
    return state


def deep(levels: int) -> Any:
    node: Any = teacher()
    for _ in range(levels):
        node = {"state_dict": node}
    return node


def cyclic() -> dict[str, Any]:
    node: dict[str, Any] = {}
    node["state_dict"] = node
    return node


def nested_pickle(levels: int) -> bytes:
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."
