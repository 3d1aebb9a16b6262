from __future__ import annotations

import dataclasses
import gzip
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from kdrun.data.digits import Digits, shipped
from kdrun.data.source import Source, Split, check
from kdrun.data.splits import Data, balanced
from kdrun.data.synthetic import Synthetic, SyntheticPairs
from kdrun.errors import ConfigError, InputError

GREY = {"channels": 1, "mean": [0.5], "std": [0.5]}


@dataclass(kw_only=True)
class Held(Source):
    """A source that has its splits already."""

    train: Split
    test: Split

    def read(self) -> tuple[Split, Split]:
        return self.train, self.test


def split_of(labels: list[int], size: int = 4) -> Split:
    """Images that tell their place: all pixels of the n-th are n."""
    places = torch.arange(len(labels), dtype=torch.uint8)
    return Split(places[:, None, None, None].expand(-1, 1, size, size).contiguous(), torch.tensor(labels))


def held(labels: list[int], classes: int = 10, **settings: object) -> Held:
    split = split_of(labels)
    return Held(**GREY, size=4, classes=classes, train=split, test=split_of([0, 1]), **settings)


def places(split: Split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


def test_every_training_image_is_either_trained_on_or_held_back() -> None:
    data = Data.read(held([0, 1] * 50, val_fraction=0.2))
    assert (data.train.size, data.val.size, data.test.size) == (80, 20, 2)
    assert sorted(places(data.train) + places(data.val)) == list(range(100))


def test_the_split_depends_on_its_seed_and_on_no_more() -> None:
    torch.manual_seed(1)
    one = Data.read(held([0, 1] * 50))
    torch.manual_seed(2)
    again, other = Data.read(held([0, 1] * 50, crop=2, train_size=10)), Data.read(held([0, 1] * 50, split_seed=1))
    assert places(one.val) == places(again.val)
    assert places(one.val) != places(other.val)


def test_the_subset_is_drawn_anew_for_another_split_seed() -> None:
    positions = []
    for seed in (0, 1):
        data = Data.read(held([0] * 100, train_size=10, split_seed=seed))
        positions.append([places(data.train).index(place) for place in places(data.subset)])
    assert len(positions[0]) == len(positions[1]) == 10
    assert positions[0] != positions[1]  # places among the training images, which are others too


def test_train_size_leaves_the_teacher_all_images() -> None:
    data = Data.read(held([0, 1] * 50, train_size=10))
    assert (data.subset.size, data.train.size) == (10, 90)
    assert set(places(data.subset)) < set(places(data.train))


def test_without_train_size_the_student_uses_the_same_tensors() -> None:
    data = Data.read(held([0, 1] * 50)).to(torch.device("cpu"))
    assert data.subset is data.train


def test_all_images_wanted_by_number_are_all_images() -> None:
    data = Data.read(held([0, 1] * 50, train_size=90))
    assert places(data.subset) == places(data.train)


@pytest.mark.parametrize("count", [1, 3, 9, 10, 20, 24, 29, 30])
def test_a_balanced_draw_differs_by_at_most_one_image_a_class(count: int) -> None:
    labels = torch.tensor([0] * 17 + [1] * 8 + [2] * 5)
    chosen = balanced(labels, count, torch.Generator().manual_seed(0))
    assert len(set(chosen.tolist())) == count
    counts = torch.bincount(labels[chosen], minlength=3).tolist()
    share = max(counts)
    assert all(have >= min(share - 1, there) for have, there in zip(counts, (17, 8, 5), strict=True))


def test_a_balanced_draw_is_not_always_the_same() -> None:
    labels = torch.arange(100) % 10
    assert not torch.equal(*(balanced(labels, 20, torch.Generator().manual_seed(seed)) for seed in (0, 1)))


@pytest.mark.parametrize(
    ("count", "fraction", "part"), [(10, 0.01, "validation"), (10, 0.99, "training"), (1, 0.5, "validation")]
)
def test_a_fraction_that_leaves_no_image_is_refused(count: int, fraction: float, part: str) -> None:
    with pytest.raises(ConfigError, match=rf"^dataset.val_fraction: {fraction} leaves no {part} images of {count};"):
        Data.read(held([0] * count, val_fraction=fraction))


@pytest.mark.parametrize("count", [0, 91, 1000])
def test_more_images_than_there_are_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"^dataset.train_size: {count} of 90 training images"):
        Data.read(held([0, 1] * 50, train_size=count))


def test_the_digest_is_that_of_shapes_and_bytes_before_the_split() -> None:
    split = split_of([0, 1] * 50)
    expected = hashlib.sha256(b"(100, 1, 4, 4)" + split.images.numpy().tobytes())
    expected.update(b"(100,)" + split.targets.numpy().tobytes())
    assert split.digest() == expected.hexdigest()
    assert Data.read(held([0, 1] * 50)).digest == Data.read(held([0, 1] * 50, split_seed=5)).digest == split.digest()


def test_one_changed_pixel_changes_the_digest() -> None:
    split = split_of([0, 1] * 50)
    before = split.digest()
    split.images[7, 0, 2, 2] += 1
    assert split.digest() != before


def test_a_class_that_a_split_lacks_is_noted_by_name() -> None:
    data = Data.read(held([0, 1] * 50 + [3], classes=4))
    assert data.notes[0] == "no training images of class 2"
    assert data.notes[1] in ("no validation images of class 2, 3", "no validation images of class 2")


def test_images_are_padded_in_the_middle_and_the_size_follows() -> None:
    source = held([0, 1] * 50, pad_to=7)
    data = Data.read(source)
    assert source.size == 7
    assert tuple(data.train.images.shape[1:]) == (1, 7, 7)
    image, place = data.train.images[5, 0], places(Data.read(held([0, 1] * 50)).train)[5]
    assert torch.equal(image[1:5, 1:5], torch.full((4, 4), place, dtype=torch.uint8))
    assert int(image.sum()) == 16 * place


def test_a_padded_source_can_be_copied() -> None:
    source = held([0, 1] * 50, pad_to=7)
    assert Data.read(replace(source, val_fraction=0.5)).val.images.shape == (50, 1, 7, 7)


def test_pairs_are_padded_and_thinned_together() -> None:
    data = Data.read(SyntheticPairs(pad_to=20, train_size=30))
    assert data.subset.images.shape == data.subset.targets.shape == (30, 3, 20, 20)
    assert torch.equal(data.subset.targets[:, :, 2:18, 2:18], 255 - data.subset.images.roll(1, 1)[:, :, 2:18, 2:18])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"mean": [0.5, 0.5]}, "dataset.mean: 2 numbers for 1 channels; give one per channel"),
        ({"std": []}, "dataset.std: 0 numbers for 1 channels; give one per channel"),
        ({"std": [0.0]}, "dataset.std: 0 would divide by zero; give numbers above 0"),
        ({"classes": 1}, "dataset.classes: 1 is out of range [2, inf)"),
        ({"pad_to": 11}, "dataset.pad_to: 11 is less than the images have; use at least 12"),
    ],
)
def test_numbers_that_contradict_each_other_are_refused(settings: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Synthetic(**settings)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("images", "labels", "line"),
    [
        (torch.zeros(10, 1, 4, 4), [0] * 5, "f: 10 images but 5 labels; fetch the files again"),
        (torch.zeros(2, 1, 4, 4), [0, 200], "f: label 200 at row 1, dataset.classes=10"),
        (torch.zeros(2, 1, 4, 4), [-1, 3], "f: label -1 at row 0, dataset.classes=10"),
        (torch.zeros(2, 3, 4, 4), [0, 1], "f: images are 3 x 4 x 4, 1 x 4 x 4 by dataset.channels and .size"),
        (torch.zeros(0, 1, 4, 4), [], "f: holds no images; fetch the file again"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_named(images: torch.Tensor, labels: list[int], line: str) -> None:
    split = Split(images.to(torch.uint8), torch.tensor(labels, dtype=torch.int64))
    with pytest.raises(InputError) as caught:
        check(split, held([0]), "f")
    assert str(caught.value) == line


def test_digits_are_scikit_learns_1797_with_45_a_class_as_test() -> None:
    train, test = Digits().read()
    assert (train.size, test.size) == (1347, 450)
    assert torch.bincount(test.targets).tolist() == [45] * 10
    counts = torch.bincount(torch.cat([train.targets, test.targets])).tolist()
    assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_are_what_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits

    loaded, table = load_digits(), shipped()
    assert (table[:, :-1].reshape(-1, 8, 8) == loaded.images).all()
    assert (table[:, -1] == loaded.target).all()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read (No such file or directory)"),
        (gzip.compress(b"1,2\n3,4\n"), "has not the 1797 rows of 65 numbers of the digits; install scikit-learn again"),
        (gzip.compress(b"1,two\n"), "is not a table of numbers; install scikit-learn again"),
        (gzip.compress(b"1,2\n")[:-4], "truncated; fetch it again"),
    ],
)
def test_a_damaged_file_of_digits_is_one_line(
    content: bytes | None, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "datasets" / "data" / "digits.csv.gz"
    path.parent.mkdir(parents=True)
    if content is not None:
        path.write_bytes(content)
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("kdrun.data.digits.find_spec", lambda name: package)
    with pytest.raises(InputError) as caught:
        Digits().read()
    assert str(caught.value) == f"{path}: {what}"


def test_digits_without_scikit_learn_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdrun.data.digits.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^dataset: digits are a file of scikit-learn, which is not installed; inst"):
        Digits().read()


def test_digits_fill_a_byte_and_have_the_stated_statistics() -> None:
    source = Digits()
    images = source.read()[0].images.double() / 255
    assert len(images.unique()) == 17
    assert images.max() == 1
    assert [round(float(images.mean()), 4)] == source.mean
    assert [round(float(images.std(correction=0)), 4)] == source.std


def test_digits_always_have_the_same_test_split() -> None:
    one, other = Digits(split_seed=0).read()[1], Digits(split_seed=9).read()[1]
    assert one.digest() == other.digest() == Digits().read()[1].digest()


def test_synthetic_images_have_any_shape_and_follow_their_seed() -> None:
    source = Synthetic(channels=2, size=9, classes=5, mean=[0.5] * 2, std=[0.2] * 2, train_count=50, test_count=20)
    train, test = source.read()
    assert train.images.shape == (50, 2, 9, 9)
    assert test.images.shape == (20, 2, 9, 9)
    assert torch.bincount(train.targets).tolist() == [10] * 5
    assert train.digest() == source.read()[0].digest() != replace(source, seed=1).read()[0].digest()


def test_synthetic_classes_are_separated_by_their_nearest_mean() -> None:
    source = Synthetic()
    train, test = ((split.images.flatten(1).float(), split.targets) for split in source.read())
    means = torch.stack([train[0][train[1] == label].mean(0) for label in range(source.classes)])
    guessed = torch.cdist(test[0], means).argmin(1)
    assert (guessed == test[1]).float().mean() > 0.9


def test_synthetic_pairs_translate_by_a_rule() -> None:
    train, test = SyntheticPairs(train_count=6, test_count=4).read()
    assert (train.size, test.size) == (6, 4)
    assert torch.equal(train.targets[:, 1], 255 - train.images[:, 0])
    assert SyntheticPairs.task == "translation"


def test_data_moves_with_all_its_splits() -> None:
    data = Data.read(Synthetic(train_size=20)).to(torch.device("meta"))
    splits = [getattr(data, field.name) for field in dataclasses.fields(data)]
    devices = {tensor.device.type for split in splits if isinstance(split, Split) for tensor in split}
    assert devices == {"meta"}
