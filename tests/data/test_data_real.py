from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from kdrun.data.cifar import CIFAR10, CIFAR100
from kdrun.data.cityscapes import Cityscapes
from kdrun.data.idx import MNIST, FashionMNIST
from kdrun.data.notmnist import NotMNIST
from kdrun.data.source import Source, Split
from kdrun.data.splits import Data
from kdrun.data.streams import Stream

pytestmark = pytest.mark.real
ROOT = os.environ.get("KDRUN_DATA", "")
FOLDERS = {
    MNIST: "MNIST/raw",
    FashionMNIST: "FashionMNIST/raw",
    NotMNIST: "notMNIST/raw",
    CIFAR10: "cifar-10-batches-py",
    CIFAR100: "cifar-100-python",
    Cityscapes: "cityscapes/train",
}


def real(kind: Any, **settings: Any) -> Source:
    if not ROOT:
        pytest.skip("KDRUN_DATA is not set")
    if not (Path(ROOT) / FOLDERS[kind]).is_dir():
        pytest.skip(f"no {FOLDERS[kind]} in KDRUN_DATA")
    return kind(root=ROOT, **settings | ({"download": False} if "download" in kind.__dataclass_fields__ else {}))


def statistics(*splits: Split) -> tuple[list[float], list[float]]:
    images = torch.cat([split.images for split in splits]).flatten(2)
    means, stds = [], []
    for channel in images.unbind(1):
        counts = torch.bincount(channel.flatten().int(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * values).sum() / counts.sum()
        means.append(round(float(mean), 4))
        stds.append(round(float(((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt()), 4))
    return means, stds


@pytest.mark.parametrize(
    ("kind", "sizes", "per_class"),
    [
        (MNIST, (60_000, 10_000), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
        (FashionMNIST, (60_000, 10_000), [6000] * 10),
        (CIFAR10, (50_000, 10_000), [5000] * 10),
    ],
)
def test_a_data_set_has_its_published_counts_and_statistics(
    kind: Any, sizes: tuple[int, int], per_class: list[int]
) -> None:
    source = real(kind)
    train, test = source.read()
    assert (train.size, test.size) == sizes
    assert torch.bincount(train.targets).tolist() == per_class
    assert statistics(train) == (source.mean, source.std)


def test_notmnist_small_is_whole_and_has_the_stated_statistics() -> None:
    source = real(NotMNIST)
    train, test = source.read()
    counts = torch.bincount(torch.cat([train.targets, test.targets]))
    assert set(counts.tolist()) <= {1872, 1873}
    assert statistics(train, test) == (source.mean, source.std)


def test_a_part_of_cifar100_is_read_with_leave_and_is_balanced() -> None:
    source = real(CIFAR100, verify=False)
    train, test = source.read()
    assert torch.bincount(test.targets).tolist() == [100] * 100
    assert len(set(torch.bincount(train.targets).tolist())) == 1
    assert source.names[:2] == ["apple", "aquarium_fish"]
    distances = [abs(a - b) for a, b in zip(statistics(train)[0], source.mean, strict=True)]
    assert max(distances) < (0.0001 if train.size == 50_000 else 0.005)


def test_coarse_labels_group_the_fine_ones() -> None:
    fine = real(CIFAR100, verify=False).read()[1].targets
    source = real(CIFAR100, verify=False, labels="coarse")
    coarse = source.read()[1].targets
    assert torch.bincount(coarse).tolist() == [500] * 20
    assert all(len(coarse[fine == label].unique()) == 1 for label in range(100))
    assert source.names[0] == "aquatic_mammals"


@pytest.mark.parametrize("size", [64, 256])
def test_label_maps_are_near_the_palette_and_photographs_are_not(size: int) -> None:
    source = real(Cityscapes, size=size)
    _, test = source.read()
    palette = torch.tensor([*source.palette, (0, 0, 0)], dtype=torch.float32)

    def near(images: torch.Tensor) -> float:
        colours = images[:20].permute(0, 2, 3, 1).reshape(-1, 3).float()[::7]
        return (torch.cdist(colours, palette).min(1).values < 30).float().mean().item()

    assert near(test.targets) > 0.85 > 0.7 > near(test.images)


def test_the_official_layout_is_read(tmp_path: Path) -> None:
    full = Path(ROOT) / "cityscapes_fullres"
    if not ROOT or not full.is_dir():
        pytest.skip("no cityscapes_fullres in KDRUN_DATA")
    for kind in ("leftImg8bit", "gtFine"):
        for part in ("train", "val"):
            (tmp_path / "cityscapes" / kind).mkdir(parents=True, exist_ok=True)
            (tmp_path / "cityscapes" / kind / part).symlink_to(full / kind / "train")
    source = Cityscapes(root=str(tmp_path), layout="official")
    train, _ = source.read()
    colours = set(map(tuple, train.targets.permute(0, 2, 3, 1).reshape(-1, 3).tolist()))
    assert len(colours & set(source.palette)) >= 5


def test_a_warm_start_reads_cifar10_in_under_a_fifth_of_a_second() -> None:
    source = real(CIFAR10)
    source.read()
    times = []
    for _ in range(3):
        start = time.process_time()
        source.read()
        times.append(time.process_time() - start)
    assert min(times) < 0.2


def test_a_cifar10_epoch_is_shuffled_augmented_and_normalized() -> None:
    source = real(CIFAR10)
    data = Data.read(source)
    stream = Stream(data.train, data.train_places, source, 128, 0, "distill", torch.device("cpu"))
    seen = torch.zeros(50_000, dtype=torch.bool)
    views: set[int] = set()
    for place, batch in enumerate(stream.epoch(1)):
        seen[batch.index] = True
        views.update(batch.view.tolist())
        if place < 3:
            assert batch.images.mean().abs() < 0.3
            assert 0.7 < batch.images.std() < 1.3
    assert torch.equal(seen.nonzero()[:, 0], data.train_places.index)
    assert len(views) == stream.views == 162
