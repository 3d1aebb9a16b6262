"""Hostile files of data sets: idx, pickles of CIFAR, MATLAB files, caches that come with the data; and all images."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from battery import images
from battery.cases import Battery, Case, untrained
from battery.corruption import CIFAR, MNIST, SVHN
from battery.images import EVERYTHING, FOLDER, in_folder
from battery.runner import Outcome
from battery.stock import batch, idx_bytes


def idx_shape(*shape: int, body: int = 0, kind: int = 8) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + bytes(body)


def bomb() -> bytes:
    """A .gz of 4 MB whose content is an idx file of 4 GB of zeros, as its header says."""
    count = (1 << 32) // 784 - 1
    shell = gzip.compress(idx_shape(count, 28, 28) + bytes(1 << 20), 9)
    return shell + b"".join([gzip.compress(bytes(1 << 26), 9)] * 63)


IDX: dict[str, bytes] = {
    "a header of 2^32": idx_shape(1 << 16, 256, 256, body=10),
    "a header of 2^32 - 1 images": idx_shape((1 << 32) - 1, 1, 1, body=10),
    "a header of 2^31 bytes": idx_shape(1 << 11, 1 << 10, 1 << 10, body=10),
    "a header of 2^96": idx_shape((1 << 32) - 1, (1 << 32) - 1, (1 << 32) - 1),
    "no images": idx_shape(0, 28, 28),
    "images of 1 x 1": idx_shape(80, 1, 1, body=80),
    "images of 28 x 27": idx_shape(80, 28, 27, body=80 * 28 * 27),
    "fewer images than labels": idx_bytes(np.zeros((10, 28, 28))),
    "a letter too many": idx_bytes(np.zeros((80, 28, 28))) + b"x",
    "floats": idx_shape(80, 28, 28, body=80 * 784 * 4, kind=13),
    "255 dimensions": idx_shape(*[1] * 255),
    "only a header": idx_shape(80, 28, 28),
    "half a header": b"\0\0\x08\x03\0\0",
    "empty": b"",
    "HTML": b"<html>404</html>",
    "labels": idx_bytes(np.arange(80) % 10),
}

LABELS: dict[str, bytes] = {
    "label 200": idx_bytes(np.full(80, 200)),
    "one label 10": idx_bytes(np.concatenate([np.arange(79) % 10, [10]])),
    "79 labels": idx_bytes(np.arange(79) % 10),
    "images in place of labels": idx_bytes(np.zeros((80, 28, 28))),
    "a header of 2^32 - 1 labels": idx_shape((1 << 32) - 1, body=80),
}


class System:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch hit",)


class Huge:
    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, Any]:
        return self.call


def pickled(**changes: Any) -> bytes:
    return pickle.dumps({**batch(20, 1), **changes}, 2)


PICKLES: dict[str, bytes] = {
    "os.system": pickle.dumps(System()),
    "os.system in it": pickled(x=System()),
    "os.system in text": b"cos\nsystem\n(S'touch hit'\ntR.",
    "builtins.eval": b'c__builtin__\neval\n(S\'open("hit","w")\'\ntR.',
    "numpy.load": b"cnumpy\nload\n(S'x.npy'\ntR.",
    "numpy.memmap": b"cnumpy\nmemmap\n(S'/etc/passwd'\ntR.",
    "numpy.ndarray of 10^11": b"cnumpy\nndarray\n((L100000000000L\ntS'u1'\ntR.",
    "bytearray(2e9)": pickled(x=Huge(bytearray, 2_000_000_000)),
    "an array of objects": pickle.dumps({**batch(20, 1), "data": np.array([None] * 20, dtype=object)}, 2),
    "an array of floats": pickled(data=np.zeros((20, 3072))),
    "an array of another shape": pickled(data=np.zeros((20, 100), np.uint8)),
    "labels 10": pickled(labels=[10] * 20),
    "labels -1": pickled(labels=[-1] * 20),
    "labels text": pickled(labels=["a"] * 20),
    "labels too few": pickled(labels=[1]),
    "labels a number": pickled(labels=3),
    "labels huge": pickled(labels=[10**30] * 20),
    "no data": pickle.dumps({"labels": [1]}, 2),
    "a list": pickle.dumps([1], 2),
    "itself": b"\x80\x02]q\x00h\x00a.",
    "100,000 deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "memo of 2^31": b"\x80\x02}r\xff\xff\xff\x7f.",
    "text of 2^31 that is not there": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a frame of 2^60": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
    "bytes of 2^60": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
    "a persistent id": b"Phit\n.",
    "an extension": b"\x80\x02\x82\x01.",
    "a name by STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch hit\x85R.",
    "BUILD with code": b"\x80\x02}}\x8c\x08__class__K\x01sb.",
    "10^7 times doubled": b"\x80\x02]q\x00" + b"(h\x00h\x00lq\x00" * 100 + b".",
    "empty": b"",
    "a dot": b".",
    "HTML": b"<html>",
}

MATS: dict[str, bytes] = {
    "empty": b"",
    "text": b"hello",
    "a header alone": b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\x01IM",
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(1000),
    "an element of 2^31": b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\x01IM" + struct.pack("<II", 14, 0x7FFFFFFF),
    "an element of 2^32": b"MATLAB 5.0 MAT-file".ljust(124)
    + b"\0\x01IM"
    + struct.pack("<II", 14, 0xFFFFFFFF)
    + bytes(64),
    "a compressed bomb": b"",
    "noise": bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)),
}


def cases(battery: Battery) -> Iterator[Case]:
    yield from images.cases(battery)
    idx, labels = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
    for file, group in ((idx, IDX), (labels, LABELS)):
        for name, content in list(group.items())[:: battery.some(1, 5)]:
            yield replaced(
                battery, f"idx: {name}", "idx", f"data/MNIST/raw/{file}", content, [*MNIST, "dataset.verify=false"]
            )
    yield gz_bomb(battery)
    for name, content in list(PICKLES.items())[:: battery.some(1, 6)]:
        yield replaced(battery, f"CIFAR: {name}", "cifar", "data/cifar-10-batches-py/data_batch_2", content, CIFAR)
    for name, content in list(PICKLES.items())[:: battery.some(4, 20)]:
        yield replaced(
            battery, f"CIFAR's names: {name}", "cifar", "data/cifar-10-batches-py/batches.meta", content, CIFAR
        )
    for name, content in list(MATS.items())[:: battery.some(1, 4)]:
        yield replaced(
            battery, f"SVHN: {name}", "svhn", "data/SVHN/train_32x32.mat", content or compressed_mat(name), SVHN
        )
    yield from caches(battery)


def compressed_mat(name: str) -> bytes:
    import zlib

    if name == "empty":
        return b""
    body = zlib.compress(struct.pack("<II", 14, 2_000_000_000) + bytes(300_000_000), 9)
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\x01IM" + struct.pack("<II", 15, len(body)) + body


def replaced(battery: Battery, name: str, lot: str, file: str, content: bytes, argv: list[str]) -> Case:
    def make(box: Path) -> None:
        battery.laid(lot)(box)
        (box / file).write_bytes(content)

    return Case(
        name,
        argv,
        make=make,
        codes=(3,),
        names=(Path(file).name, "-ubyte", "dataset"),
        seconds=30,
        megabytes=400,
        check=untrained,
        writes=EVERYTHING,
    )


def gz_bomb(battery: Battery) -> Case:
    def make(box: Path) -> None:
        battery.laid("idx")(box)
        (box / "data/MNIST/raw/train-images-idx3-ubyte").unlink()
        (box / "data/MNIST/raw/train-images-idx3-ubyte.gz").write_bytes(bomb())

    return Case(
        "idx: a .gz of 4 MB that unpacks to 4 GB",
        [*MNIST, "dataset.verify=false"],
        make=make,
        codes=(3,),
        names=("idx3",),
        writes=EVERYTHING,
        check=untrained,
        seconds=60,
        megabytes=600,
    )


def caches(battery: Battery) -> Iterator[Case]:
    """Caches beside the data that say something else than the data: they are not believed."""

    def planted(path: Path) -> None:
        for number in range(3):
            (path / f".kdrun-{number:016x}.safetensors").write_bytes(b"x" * 100)

    yield in_folder(battery, "cache: broken ones beside the images", lambda box: planted(box / "pics"), (0,))
    yield Case(
        "cache: made by a run, all images then black, same sizes and times",
        [*FOLDER, "name=second"],
        make=poisoned(battery),
        codes=(0,),
        writes=EVERYTHING,
        check=same_weights,
    )
    yield Case(
        "cache: no folder to write it to",
        FOLDER,
        make=battery.laid("folder"),
        codes=(0,),
        writes=EVERYTHING,
        env={"HOME": "/proc/nope", "XDG_CACHE_HOME": "/proc/nope", "KDRUN_CACHE": "/proc/nope"},
        lines=2,
    )


def poisoned(battery: Battery) -> Callable[[Path], object]:
    """Runs once, then puts black images into whatever cache the run left beside the data, with right digests."""

    def make(box: Path) -> str | None:
        import importlib

        from battery.stock import command

        battery.laid("folder")(box)
        command(box.parent, FOLDER)
        paths = list((box / "pics").rglob(".kdrun-*.safetensors"))
        if not paths:
            return None
        cache, source = importlib.import_module("kdrun.data.cache"), importlib.import_module("kdrun.data.source")
        from safetensors import safe_open
        from safetensors.torch import save

        for path in paths:
            with safe_open(path, framework="pt") as file:
                import json

                facts = json.loads(file.metadata()["facts"])
                splits = [
                    source.Split(file.get_tensor(f"{part}.images") * 0, file.get_tensor(f"{part}.targets"))
                    for part in ("train", "test")
                ]
            facts["digests"] = [split.digest() for split in splits]
            path.write_bytes(save(cache._tensors(*splits), cache._sealed(json.dumps(facts))))
        return None

    return make


def same_weights(box: Path, outcome: Outcome) -> str:
    one, two = (box / "o" / name / "student.safetensors" for name in ("run", "second"))
    return "" if one.read_bytes() == two.read_bytes() else "the cache was believed: other weights"
