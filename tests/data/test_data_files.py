from __future__ import annotations

import gzip
import hashlib
import os
import threading
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from data_makers import IMAGES, LABELS, TEST_LABELS, complaint, idx, idx_files, lay

from kdrun.data import download
from kdrun.data.cifar import CIFAR10
from kdrun.data.idx import MNIST
from kdrun.data.splits import Data

RAW = "MNIST/raw"


def laid(root: Path, files: dict[str, bytes]) -> Path:
    lay(root / RAW, files)
    return root


def mnist(root: Path, **settings: Any) -> MNIST:
    return MNIST(**{"root": str(root), "verify": False, "download": False, **settings})


def test_idx_files_are_read_as_written(tmp_path: Path) -> None:
    files = idx_files()
    train, test = mnist(laid(tmp_path, files)).read()
    assert train.images.shape == (30, 1, 28, 28)
    assert train.images.numpy().tobytes() == files[IMAGES][16:]
    assert test.targets.tolist() == list(range(10))


def test_packed_files_are_read_as_well_as_unpacked_ones(tmp_path: Path) -> None:
    files = idx_files()
    plain = Data.read(mnist(laid(tmp_path / "plain", files)))
    packed = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    assert Data.read(mnist(laid(tmp_path / "packed", packed))).digest == plain.digest


FAULTS = {
    "truncated": (IMAGES, lambda b: b[:-400], "truncated (0.0 of 0.0 MB); fetch it again"),
    "cut in its header": (IMAGES, lambda b: b[:7], "truncated in its header; fetch it again"),
    "longer": (LABELS, lambda b: b + b"x", "longer than its header says; fetch it again"),
    "zero bytes": (LABELS, lambda b: b"", "empty file; fetch it again"),
    "garbage": (IMAGES, lambda b: b"\xff" * 5000, "not an idx file (magic 0xffffffff); fetch it again"),
    "another type": (IMAGES, lambda b: b"\0\0\x0d\3" + b[4:], "not an idx file (magic 0x00000d03); fetch it again"),
    "swapped": (IMAGES, lambda b: idx(np.arange(30)), "holds labels, images expected; are two files swapped?"),
    "swapped too": (
        LABELS,
        lambda b: idx(np.ones((3, 28, 28))),
        "holds images, labels expected; are two files swapped?",
    ),
    "too few labels": (LABELS, lambda b: idx(np.arange(5)), "30 images but 5 labels; fetch the files again"),
    "wrong label": (LABELS, lambda b: b[:25] + b"\xc8" + b[26:], "label 200 at row 17, dataset.classes=10"),
    "lfs": (
        IMAGES,
        lambda b: b"version https://git-lfs.github.com/spec/v1\n",
        "is a Git LFS pointer; fetch the real file",
    ),
    "promises": (
        IMAGES,
        lambda b: b[:4] + b"\xff" * 12,
        "its header promises 4294967295 x 4294967295 x 4294967295 values",
    ),
    "no images": (
        IMAGES,
        lambda b: idx(np.ones((0, 28, 28))),
        "its header promises 0 x 28 x 28 values; fetch it again",
    ),
}


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_unfit_is_named_in_one_line(fault: str, packed: bool, tmp_path: Path) -> None:
    name, spoil, what = FAULTS[fault]
    files = idx_files()
    content = spoil(files.pop(name))
    spoilt = f"{name}.gz" if packed else name
    if packed and fault not in ("zero bytes", "lfs"):
        content = gzip.compress(content)
    laid(tmp_path, {**files, spoilt: content})
    assert complaint(mnist(tmp_path).read).startswith(f"{tmp_path}/MNIST/raw/{spoilt}: {what}")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda b: b[: len(b) // 2], "truncated; fetch it again"),
        (lambda b: b[:200] + bytes([b[200] ^ 1]) + b[201:], "cannot be read"),
        (lambda b: b"\x1f\x8c" + b[2:], "cannot be read"),
    ],
)
def test_a_damaged_archive_is_named_in_one_line(spoil: Callable[[bytes], bytes], what: str, tmp_path: Path) -> None:
    files = idx_files()
    lay(tmp_path / RAW, {**files, f"{IMAGES}.gz": spoil(gzip.compress(files.pop(IMAGES)))})
    (tmp_path / "MNIST/raw" / IMAGES).unlink()
    assert complaint(mnist(tmp_path).read).startswith(f"{tmp_path}/MNIST/raw/{IMAGES}.gz: {what}")


def test_an_archive_larger_than_it_says_is_not_unpacked(tmp_path: Path) -> None:
    files = idx_files()
    bomb = gzip.compress(files.pop(IMAGES) + bytes(50_000_000))
    lay(tmp_path / RAW, {**files, f"{IMAGES}.gz": bomb})
    assert "longer than its header says" in complaint(mnist(tmp_path).read)


def test_one_flipped_pixel_of_a_published_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = idx_files()
    monkeypatch.setattr(MNIST, "md5", {name: hashlib.md5(content).hexdigest() for name, content in files.items()})
    laid(tmp_path, files)
    mnist(tmp_path, verify=True).read()
    spoilt = files[IMAGES][:999] + bytes([files[IMAGES][999] ^ 1]) + files[IMAGES][1000:]
    lay(tmp_path / RAW, {IMAGES: spoilt})
    message = complaint(mnist(tmp_path, verify=True).read)
    assert message.startswith(f"{tmp_path}/MNIST/raw/{IMAGES}: md5 differs from the published file's (got ")
    assert message.endswith("dataset.verify=false")
    mnist(tmp_path, verify=False).read()


def test_a_missing_file_is_named_with_all_that_helps(tmp_path: Path) -> None:
    files = idx_files()
    del files[TEST_LABELS]
    message = complaint(mnist(laid(tmp_path, files)).read)
    assert message.startswith(f"dataset.root: {TEST_LABELS}(.gz) not found in {tmp_path}/MNIST/raw; place ")
    for help in (IMAGES, "dataset.root=", "KDRUN_DATA", "dataset=digits"):
        assert help in message


def test_a_missing_folder_is_named_and_not_created(tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    assert complaint(mnist(root).read).startswith(f"dataset.root: no such folder '{root}'")
    assert not root.parent.exists()


def no_network(*args: object, **settings: object) -> None:
    raise urllib.error.URLError("Name or service not known")


@pytest.mark.parametrize("source", [MNIST, CIFAR10])
def test_without_network_one_line_says_so_and_no_file_is_left(
    source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urllib.request.urlopen", no_network)
    message = complaint(source(root=str(tmp_path / "a" / "b")).read)
    assert "and the download failed (" in message
    assert "Name or service not known" in message
    assert "dataset=digits" in message
    assert list(tmp_path.iterdir()) == []


class Server:
    """Stands for the class of torchvision.datasets that downloads MNIST."""

    calls: ClassVar[list[str]] = []

    def __init__(self, root: str, download: bool) -> None:
        self.calls.append(root)
        lay(Path(root) / RAW, idx_files())


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> type[Server]:
    monkeypatch.setattr("torchvision.datasets.MNIST", Server)
    monkeypatch.setattr(Server, "calls", [])
    return Server


def test_what_is_missing_is_downloaded_once_by_however_many_ask(server: type[Server], tmp_path: Path) -> None:
    sizes: list[int] = []
    source = mnist(tmp_path / "data", download=True)
    askers = [threading.Thread(target=lambda: sizes.append(source.read()[0].size)) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sizes == [30] * 4
    assert len(server.calls) == 1


def test_a_download_leaves_the_data_and_no_scratch(server: type[Server], tmp_path: Path) -> None:
    (tmp_path / ".download.killed").mkdir()
    mnist(tmp_path, download=True).read()
    assert sorted(os.listdir(tmp_path)) == [download.LOCK, "MNIST"]
    assert Path(server.calls[0]).parent == tmp_path
    mnist(tmp_path, download=True).read()
    assert len(server.calls) == 1


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(server: type[Server], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "the download failed (" in complaint(mnist(tmp_path / "file", download=True).read)
