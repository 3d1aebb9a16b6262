from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from kdrun.data.augment import augment, identity, views
from kdrun.data.source import Places, Source, Split
from kdrun.data.streams import FirstBatches, Stream, batches, pixels
from kdrun.data.synthetic import Synthetic, SyntheticPairs
from kdrun.errors import ConfigError
from kdrun.train.stage import Batch

CPU = torch.device("cpu")


def split_of(count: int, classes: int = 3, size: int = 6, channels: int = 1) -> Split:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, channels, size, size), generator=generator).to(torch.uint8)
    return Split(images, torch.randint(classes, (count,), generator=generator))


def source(**settings: object) -> Source:
    return Synthetic(**{"size": 6, "classes": 3, **settings})


def places(count: int) -> Places:
    """A split that is all of the training images."""
    return Places(torch.arange(count), count)


def stream(count: int = 20, batch_size: int = 8, seed: int = 0, name: str = "distill", **settings: object) -> Stream:
    return Stream(split_of(count), places(count), source(**settings), batch_size, seed, name, CPU)


def same(a: list[Batch], b: list[Batch]) -> bool:
    parts = ("images", "targets", "index", "view")
    return len(a) == len(b) and all(
        torch.equal(getattr(one, part), getattr(other, part)) for one, other in zip(a, b, strict=True) for part in parts
    )


def moved(image: np.ndarray, view: int, crop: int, flip: bool) -> np.ndarray:
    """One image in one view, pixel by pixel."""
    view, mirrored = divmod(view, 2) if flip else (view, 0)
    dy, dx = divmod(view, 2 * crop + 1)
    channels, height, width = image.shape
    out = np.zeros_like(image)
    for c, y, x in np.ndindex(channels, height, width):
        row, column = y + dy - crop, x + dx - crop
        if 0 <= row < height and 0 <= column < width:
            out[c, y, width - 1 - x if mirrored else x] = image[c, row, column]
    return out


@pytest.mark.parametrize(("crop", "flip"), [(0, False), (0, True), (1, False), (2, True)])
def test_every_view_is_the_shift_and_flip_of_its_number(crop: int, flip: bool) -> None:
    count = views(crop, flip)
    images = torch.randint(256, (count, 2, 5, 4), dtype=torch.uint8)
    seen = augment(images, torch.arange(count), crop, flip)
    assert seen.dtype == torch.uint8
    for view in range(count):
        np.testing.assert_array_equal(seen[view].numpy(), moved(images[view].numpy(), view, crop, flip))


@pytest.mark.parametrize(("crop", "flip", "count"), [(0, False, 1), (0, True, 2), (4, False, 81), (4, True, 162)])
def test_the_identity_is_a_view_and_shows_the_image_as_it_is(crop: int, flip: bool, count: int) -> None:
    assert views(crop, flip) == count
    assert 0 <= identity(crop, flip) < count
    images = torch.randint(256, (3, 1, 9, 9), dtype=torch.uint8)
    assert torch.equal(augment(images, torch.full((3,), identity(crop, flip)), crop, flip), images)


def test_an_epoch_shows_every_image_once_in_a_new_order() -> None:
    orders = [torch.cat([batch.index for batch in stream().epoch(number)]) for number in (1, 2)]
    assert all(torch.equal(order.sort().values, torch.arange(20)) for order in orders)
    assert not torch.equal(*orders)


def test_images_and_targets_are_those_of_the_index() -> None:
    split = split_of(20)
    for batch in Stream(split, places(split.size), source(mean=[0.3], std=[0.2]), 8, 0, "distill", CPU).epoch(1):
        expected = (split.images[batch.index].double() / 255 - 0.3) / 0.2
        torch.testing.assert_close(batch.images.double(), expected, rtol=1e-5, atol=1e-5)
        assert batch.images.dtype == torch.float32
        assert torch.equal(batch.targets, split.targets[batch.index])
        assert batch.epoch == 1


def test_the_view_in_the_batch_is_the_one_that_is_trained_on() -> None:
    split = split_of(40)
    seen = set()
    for batch in Stream(split, places(split.size), source(crop=2, flip=True, mean=[0.0], std=[1.0]), 8, 0, "distill", CPU).epoch(1):
        seen.update(batch.view.tolist())
        for image, index, view in zip(batch.images, batch.index, batch.view, strict=True):
            expected = moved(split.images[index].numpy(), int(view), 2, True) / 255
            np.testing.assert_allclose(image.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert len(seen) > 20


def test_the_same_seed_name_and_epoch_give_the_same_bits() -> None:
    assert same(list(stream(crop=1).epoch(3)), list(stream(crop=1).epoch(3)))


@pytest.mark.parametrize("other", [{"seed": 1}, {"name": "hint"}])
def test_another_seed_or_stage_gives_another_order(other: dict[str, object]) -> None:
    assert not same(list(stream().epoch(1)), list(stream(**other).epoch(1)))


@pytest.mark.parametrize("start", range(4))
def test_an_epoch_entered_in_its_middle_goes_on_as_if_unbroken(start: int) -> None:
    whole = list(stream(crop=1, flip=True).epoch(2))
    assert same(list(stream(crop=1, flip=True).epoch(2, start)), whole[start:])


def test_an_epoch_does_not_touch_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(stream(crop=1).epoch(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(20, 8, [8, 8, 4]), (16, 8, [8, 8]), (17, 8, [8, 9]), (9, 8, [9]), (3, 1, [1, 1, 1]), (8, 8, [8]), (1, 1, [1])],
)
def test_a_last_batch_of_one_joins_the_one_before(count: int, batch_size: int, sizes: list[int]) -> None:
    batched = stream(count, batch_size)
    assert [len(batch.index) for batch in batched.epoch(1)] == sizes
    assert len(batched) == len(sizes)


@pytest.mark.parametrize("start", range(3))
def test_a_quick_epoch_is_the_first_two_batches_of_the_whole(start: int) -> None:
    quick, whole = FirstBatches(stream(crop=1, flip=True)), list(stream(crop=1, flip=True).epoch(2))
    assert (len(quick), len(whole)) == (2, 3)
    assert same(list(quick.epoch(2, start)), whole[start:2])


class Counted:
    """A stream that counts the batches that it makes."""

    def __init__(self) -> None:
        self.whole, self.count = stream(), 0

    def __len__(self) -> int:
        return len(self.whole)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        for batch in self.whole.epoch(number, start):
            self.count += 1
            yield batch


def test_a_quick_epoch_makes_no_batch_that_it_does_not_give() -> None:
    counted = Counted()
    assert len(list(FirstBatches(counted).epoch(1))) == counted.count == 2


def test_pixels_undo_the_normalization_and_stay_in_their_range() -> None:
    mean, std = [0.2, 0.7], [0.5, 0.1]
    images = 4 * torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = np.clip(images.numpy() * np.reshape(std, (2, 1, 1)) + np.reshape(mean, (2, 1, 1)), 0, 1)
    assert ((expected == 0) | (expected == 1)).any()
    assert pixels(images, mean, std).numpy() == pytest.approx(expected, abs=1e-6)


def test_a_batch_larger_than_the_split_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^batch_size: 64 exceeds the 4 training images"):
        stream(4, 64)


def test_a_stream_says_how_many_images_and_views_it_has() -> None:
    assert (stream(20).size, stream(20).views, stream(20, crop=4, flip=True).views) == (20, 1, 162)


def test_scores_see_every_image_once_in_order_and_as_it_is() -> None:
    split, unit = split_of(10), source(crop=2, flip=True, mean=[0.0], std=[1.0])
    seen = list(batches(split, unit, 4, CPU))
    assert [len(batch.index) for batch in seen] == [4, 4, 2]
    assert torch.equal(torch.cat([batch.index for batch in seen]), torch.arange(10))
    torch.testing.assert_close(torch.cat([batch.images for batch in seen]), split.images / 255)
    assert {int(view) for batch in seen for view in batch.view} == {identity(2, True)}


def paired() -> tuple[Split, Source]:
    pairs = SyntheticPairs(crop=1, flip=True, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], train_count=30)
    images = pairs.read()[0].images
    return Split(images, images), pairs


def test_image_targets_move_and_scale_with_their_images() -> None:
    split, pairs = paired()
    for batch in (*Stream(split, places(split.size), pairs, 8, 0, "distill", CPU).epoch(1), *batches(split, pairs, 8, CPU)):
        assert torch.equal(batch.images, batch.targets)


def test_mean_and_std_of_a_half_bring_targets_to_plus_minus_one() -> None:
    split, pairs = paired()
    pairs = replace(pairs, mean=[0.5] * 3, std=[0.5] * 3)
    targets = torch.cat([batch.targets for batch in batches(split, pairs, 8, CPU)])
    torch.testing.assert_close(targets, split.targets.float() / 127.5 - 1)


def test_a_batch_is_composed_without_leaving_the_device() -> None:
    class Refusing(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            assert function is not torch.ops.aten._local_scalar_dense.default, "a host sync"
            return function(*args, **(kwargs or {}))

    epoch = stream(crop=1, flip=True).epoch(1)
    next(epoch)
    with Refusing():
        rest: list[Tensor] = [batch.images for batch in epoch]
    assert len(rest) == 2
