from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import complaint, lay
from scipy.io import savemat

from kdrun.data.svhn import SVHN


def mat(count: int, **changes: Any) -> bytes:
    draw = np.random.default_rng(count)
    content = {"X": draw.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)}
    content["y"] = (np.arange(count, dtype=np.uint8) % 10 + 1)[:, None]
    file = BytesIO()
    savemat(
        file, {key: value for key, value in {**content, **changes}.items() if value is not None}, do_compression=True
    )
    return file.getvalue()


def svhn(root: Path, **files: bytes) -> SVHN:
    names = {"train": mat(30), "test": mat(12), **files}
    lay(root / "SVHN", {f"{part}_32x32.mat": content for part, content in names.items()})
    return SVHN(root=str(root), verify=False, download=False)


def test_images_turn_from_columns_last_to_channels_first(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 30), dtype=np.uint8)
    train, test = svhn(tmp_path, train=mat(30, X=pixels)).read()
    assert (train.images.shape, test.images.shape) == ((30, 3, 32, 32), (12, 3, 32, 32))
    assert int(train.images[7, 2, 5, 9]) == pixels[5, 9, 2, 7]


def test_label_10_is_the_digit_0(tmp_path: Path) -> None:
    train, _ = svhn(tmp_path).read()
    assert train.targets.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 3
    assert train.targets.dtype == torch.int64


FAULTS = {
    "zero bytes": (b"", "empty file"),
    "truncated": (mat(30)[:2000], "not a MATLAB file ("),
    "garbage": (b"\xff" * 3000, "not a MATLAB file ("),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "no images": (mat(30, X=None), "holds no X of 32 x 32 x 3 x N bytes"),
    "floats": (mat(30, X=np.zeros((32, 32, 3, 30))), "holds no X of 32 x 32 x 3 x N bytes"),
    "no labels": (mat(30, y=None), "holds no y of whole numbers"),
    "words": (mat(30, y=np.array(["a", "b"])), "holds no y of whole numbers"),
    "too few labels": (mat(30, y=np.ones((20, 1), np.uint8)), "30 images but 20 labels"),
    "wrong label": (mat(30, y=np.full((30, 1), 11, np.uint8)), "label 11 at row 0, dataset.classes=10"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_unfit_is_named_in_one_line(fault: str, tmp_path: Path) -> None:
    content, what = FAULTS[fault]
    message = complaint(svhn(tmp_path, train=content).read)
    assert message.startswith(f"{tmp_path}/SVHN/train_32x32.mat: {what}")


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path: Path) -> None:
    svhn(tmp_path)
    message = complaint(SVHN(root=str(tmp_path), download=False).read)
    assert message.startswith(f"{tmp_path}/SVHN/train_32x32.mat: md5 differs from the published file's")


def test_both_files_are_downloaded_into_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(root: str, download: bool, split: str) -> None:
        lay(Path(root), {f"{split}_32x32.mat": mat(20)})

    monkeypatch.setattr("torchvision.datasets.SVHN", serve)
    assert SVHN(root=str(tmp_path), verify=False).read()[1].size == 20
    assert (tmp_path / "SVHN" / "test_32x32.mat").is_file()
