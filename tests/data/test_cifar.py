from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import batch, cifar_files, complaint, lay

from kdrun.data.cifar import CIFAR10, CIFAR100
from kdrun.data.pickles import unpickle
from kdrun.errors import InputError


def cifar(root: Path, files: dict[str, bytes], **settings: Any) -> CIFAR10:
    lay(root / "cifar-10-batches-py", files)
    return CIFAR10(**{"root": str(root), "verify": False, "download": False, **settings})


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar_batches_are_read_in_order_and_by_planes(protocol: int, tmp_path: Path) -> None:
    data = np.arange(10 * 3072).reshape(10, 3072).astype(np.uint8)
    first = batch(10, protocol=protocol, data=data)
    train, test = cifar(tmp_path, cifar_files(data_batch_1=first)).read()
    assert train.images.shape == (50, 3, 32, 32)
    assert test.images.shape == (10, 3, 32, 32)
    assert torch.equal(train.images[3, 2, 1], torch.from_numpy(data[3, 2 * 1024 + 32 : 2 * 1024 + 64]))
    assert train.targets[10:13].tolist() == [2, 3, 4]


def test_classes_are_called_what_the_meta_file_says(tmp_path: Path) -> None:
    source = cifar(tmp_path, cifar_files())
    source.read()
    assert source.names == list("abcdefghij")


@pytest.mark.parametrize("meta", [{}, {"label_names": list("abc")}, {"label_names": 3}])
def test_a_meta_file_without_ten_names_is_refused(meta: dict[str, Any], tmp_path: Path) -> None:
    files = cifar_files(**{"batches.meta": pickle.dumps(meta, protocol=2)})
    message = complaint(cifar(tmp_path, files).read)
    assert message.startswith(
        f"{tmp_path}/cifar-10-batches-py/batches.meta: has no 10 label_names (dataset.classes=10)"
    )


def cifar100(root: Path, **settings: Any) -> CIFAR100:
    both = {"fine_labels": [place * 9 for place in range(10)], "coarse_labels": list(range(10, 20))}
    names = {"fine_label_names": [f"f{n}" for n in range(100)], "coarse_label_names": [f"c{n}" for n in range(20)]}
    parts = {"train": batch(10, **both), "test": batch(10, 1, **both), "meta": pickle.dumps(names, protocol=2)}
    lay(root / "cifar-100-python", parts)
    return CIFAR100(**{"root": str(root), "verify": False, "download": False, **settings})


def test_cifar100_has_fine_labels_or_coarse_ones(tmp_path: Path) -> None:
    fine, coarse = cifar100(tmp_path), cifar100(tmp_path, labels="coarse")
    assert fine.read()[0].targets.tolist() == list(range(0, 90, 9))
    assert coarse.read()[0].targets.tolist() == list(range(10, 20))
    assert (fine.classes, fine.names[9], coarse.classes, coarse.names[9]) == (100, "f9", 20, "c9")


def test_a_part_of_cifar100_needs_leave(tmp_path: Path) -> None:
    message = complaint(cifar100(tmp_path, verify=True).read)
    assert "md5 differs" in message and message.endswith("dataset.verify=false")


class Canary:
    """Makes the folder it is given when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for hostile in (pickle.dumps(Canary(canary)), batch(10, labels=Canary(canary)), b"cos\nsystem\n(S'true'\ntR."):
        message = complaint(cifar(tmp_path, cifar_files(data_batch_2=hostile)).read)
        assert message.startswith(f"{tmp_path}/cifar-10-batches-py/data_batch_2: not a CIFAR batch (holds ")
        assert not canary.exists()


CIFAR_FAULTS = {
    "truncated": (lambda b: b[: len(b) // 2], "not a CIFAR batch ("),
    "zero bytes": (lambda b: b"", "empty file; fetch it again"),
    "lfs": (lambda b: b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "no dictionary": (lambda b: pickle.dumps([1, 2]), "not a CIFAR batch (no dictionary)"),
    "no data": (lambda b: batch(10, data=None), "holds no data of N x 3072 bytes"),
    "small data": (lambda b: batch(10, data=np.zeros((10, 784), np.uint8)), "holds no data of N x 3072 bytes"),
    "floats": (lambda b: batch(10, data=np.zeros((10, 3072))), "not a CIFAR batch (array of "),
    "no labels": (lambda b: batch(10, labels=[None] * 10), "holds no list of labels"),
    "wrong label": (lambda b: batch(10, labels=[0] * 9 + [10]), "label 10 at row 9, dataset.classes=10"),
    "too few labels": (lambda b: batch(10, labels=[0] * 9), "10 images but 9 labels"),
}


@pytest.mark.parametrize("fault", CIFAR_FAULTS)
def test_a_cifar_batch_that_is_unfit_is_named_in_one_line(fault: str, tmp_path: Path) -> None:
    spoil, what = CIFAR_FAULTS[fault]
    message = complaint(cifar(tmp_path, cifar_files(test_batch=spoil(batch(10)))).read)
    assert message.startswith(f"{tmp_path}/cifar-10-batches-py/test_batch: {what}")


def test_an_unpublished_batch_is_refused_unless_verify_is_off(tmp_path: Path) -> None:
    message = complaint(cifar(tmp_path, cifar_files(), verify=True).read)
    assert message.startswith(f"{tmp_path}/cifar-10-batches-py/batches.meta: md5 differs from the published file's")


def test_a_thousand_mutated_batches_are_never_run(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    whole = np.frombuffer(batch(2), dtype=np.uint8)
    head = len(whole) - 200
    for _ in range(1000):
        mutated = whole.copy()
        places = np.concatenate([draw.integers(0, 200, 2), draw.integers(head, len(whole), 2)])
        mutated[places] = draw.integers(0, 256, 4)
        try:
            unpickle(mutated.tobytes(), tmp_path)
        except InputError as error:
            assert "not a CIFAR batch" in str(error)
