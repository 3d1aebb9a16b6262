from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_makers import complaint, picture
from PIL import Image

from kdrun.data.cityscapes import COLOURS, Cityscapes
from kdrun.data.folder import Folder
from kdrun.data.notmnist import LETTERS, NotMNIST
from kdrun.data.splits import Data
from kdrun.data.streams import Stream

DRAW = np.random.default_rng(0)


def grey(size: int = 28) -> np.ndarray:
    return DRAW.integers(0, 256, (size, size), dtype=np.uint8)


def colour(height: int = 8, width: int = 8) -> np.ndarray:
    return DRAW.integers(0, 256, (height, width, 3), dtype=np.uint8)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def notmnist(root: Path, count: int = 5) -> NotMNIST:
    for letter in LETTERS:
        for number in range(count):
            picture(root / "notMNIST_small" / letter / f"{number}.png", grey())
    return NotMNIST(root=str(root))


def test_ten_letter_folders_give_a_fixed_test_part_of_each(tmp_path: Path) -> None:
    source = notmnist(tmp_path)
    train, test = source.read()
    assert torch.bincount(train.targets).tolist() == [4] * 10
    assert torch.bincount(test.targets).tolist() == [1] * 10
    assert source.names == list("ABCDEFGHIJ")
    everything = {image.numpy().tobytes() for split in (train, test) for image in split.images}
    files = [path for letter in LETTERS for path in (tmp_path / "notMNIST_small" / letter).iterdir()]
    assert everything == {np.asarray(Image.open(path)).tobytes() for path in files}
    assert NotMNIST(root=str(tmp_path), split_seed=3).read()[1].digest() == test.digest()


def test_letters_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    source = notmnist(tmp_path)
    (tmp_path / "notMNIST_small" / "B" / "1.png").write_bytes(b"")
    (tmp_path / "notMNIST_small" / "C" / "4.png").write_bytes(b"no image")
    train, test = source.read()
    assert train.size + test.size == 48
    assert torch.bincount(torch.cat([train.targets, test.targets])).tolist() == [5, 4, 4, *[5] * 7]
    bad = tmp_path / "notMNIST_small" / "B" / "1.png"
    assert source.notes == [f"2 of 50 files are left out, as {bad}: empty file; fetch it again"]
    assert Data.read(NotMNIST(root=str(tmp_path))).notes[0] == source.notes[0]


def own(root: Path, parts: tuple[str, ...] = ("",), count: int = 10, **settings: Any) -> Folder:
    for part in parts:
        for name in ("cat", "dog", "eel"):
            for number in range(count):
                picture(root / part / name / f"{number}.png", colour())
    return Folder(**{"root": str(root), "size": 8, **settings})


def test_classes_are_the_folders_by_name_and_are_counted(tmp_path: Path) -> None:
    source = own(tmp_path)
    train, test = source.read()
    assert (source.classes, source.names) == (3, ["cat", "dog", "eel"])
    assert (train.size, test.size) == (24, 6)
    assert torch.bincount(test.targets).tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", ["test", "val"])
def test_a_folder_of_test_images_is_the_test_split(name: str, tmp_path: Path) -> None:
    train, test = own(tmp_path, ("train", name)).read()
    assert (train.size, test.size) == (30, 30)
    first = np.asarray(Image.open(tmp_path / "train/cat/0.png"))
    assert np.array_equal(train.images[0].numpy().transpose(1, 2, 0), first)


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    own(tmp_path)
    message = complaint(Folder(root=str(tmp_path), classes=10).read)
    assert message == f"dataset.classes: 10, but {tmp_path} has 3 folders; leave it out to count them"


def test_a_test_image_of_an_unknown_class_is_refused(tmp_path: Path) -> None:
    source = own(tmp_path, ("train", "test"))
    picture(tmp_path / "test" / "yak" / "0.png", colour())
    assert complaint(source.read).startswith(f"{tmp_path}/test/yak: no such class in {tmp_path}/train")


@pytest.mark.parametrize(("make", "what"), [(False, "no such folder"), (True, "no folders in")])
def test_a_folder_that_has_no_classes_is_named(make: bool, what: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    if make:
        root.mkdir()
    assert complaint(lambda: Folder(root=str(root))).startswith(f"dataset.root: {what} '{root}'")


def test_a_single_class_of_images_is_refused_before_any_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "0.png", colour())
    way_out = f"only the folder 'cat' in '{tmp_path}'; put the images of each class into its own folder"
    assert complaint(lambda: Folder(root=str(tmp_path))) == f"dataset.root: {way_out}"
    assert complaint(lambda: Folder(root=str(tmp_path), classes=1)) == "dataset.classes: 1 is out of range [2, inf)"


def test_files_that_are_no_images_by_name_are_passed_over(tmp_path: Path) -> None:
    source = own(tmp_path)
    for name in ("cat/Thumbs.db", "cat/.hidden.png", "readme.txt", ".git/x.png", "__pycache__/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    train, test = source.read()
    assert train.size + test.size == 30


def whole_png() -> bytes:
    from io import BytesIO

    file = BytesIO()
    Image.fromarray(colour(40, 40)).save(file, "png")
    return file.getvalue()


BAD = {
    "truncated": (whole_png()[:-2000], "cannot be read ("),
    "no image": (b"<html>not found</html>", "cannot be read ("),
    "zero bytes": (b"", "empty file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    "bomb": (bomb(9000, 9000), "9000 x 9000 pixels; 67108864 are the most that is read"),
    "warned of": (bomb(10000, 10000), "10000 x 10000 pixels; 67108864 are the most that is read"),
    "greater bomb": (bomb(60000, 60000), "too large; 67108864 pixels are the most that is read"),
    "half a header": (whole_png()[:20], "cannot be read ("),
    "flipped": (whole_png()[:100] + b"\0\0\0\0" + whole_png()[104:], "cannot be read ("),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_image_is_refused_at_the_start_in_one_line(fault: str, tmp_path: Path) -> None:
    content, what = BAD[fault]
    source = own(tmp_path)
    (tmp_path / "dog" / "7.png").write_bytes(content)
    assert complaint(source.read).startswith(f"{tmp_path}/dog/7.png: {what}")


def test_an_image_of_16_bits_is_refused_rather_than_clipped(tmp_path: Path) -> None:
    source = own(tmp_path)
    picture(tmp_path / "dog" / "7.png", np.full((8, 8), 3000, dtype=np.uint16))
    assert complaint(source.read).startswith(f"{tmp_path}/dog/7.png: of mode I;16; save it with 8 bits")


def test_images_turn_grey_or_coloured_as_channels_say(tmp_path: Path) -> None:
    own(tmp_path)
    picture(tmp_path / "cat" / "0.png", grey(8))
    assert Folder(root=str(tmp_path), size=8).read()[0].images.shape[1:] == (3, 8, 8)
    one = Folder(root=str(tmp_path), size=8, channels=1, mean=[0.5], std=[0.5]).read()[0]
    assert one.images.shape[1:] == (1, 8, 8)


def striped(path: Path) -> None:
    """Three squares side by side: black, white, black."""
    array = np.zeros((8, 24, 3), dtype=np.uint8)
    array[:, 8:16] = 255
    picture(path, array)


def test_an_image_is_cut_in_its_centre_or_squeezed(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(2):
            striped(tmp_path / name / f"{number}.png")
    settings: dict[str, Any] = {"root": str(tmp_path), "size": 8, "test_fraction": 0.5}
    assert (Folder(**settings, fit="crop").read()[0].images == 255).all()
    squeezed = Folder(**settings, fit="stretch").read()[0].images[0, 0, 4]
    assert squeezed[0] < 10 and squeezed[-1] < 10 and squeezed[4] > 200


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(2):
            array = np.zeros((8, 8, 3), dtype=np.uint8)
            array[:4] = 255  # white above; orientation 3 says that this is upside down
            exif = Image.Exif()
            exif[0x0112] = 3
            picture(tmp_path / name / f"{number}.png", array, exif=exif)
    image = Folder(root=str(tmp_path), size=8, test_fraction=0.5).read()[0].images[0, 0]
    assert image[0, 0] == 0
    assert image[-1, 0] == 255


def pairs(root: Path, count: int = 20, **settings: Any) -> Cityscapes:
    for part, number in (("train", count), ("val", 4)):
        for place in range(number):
            label = np.broadcast_to(list(COLOURS.values())[place % 19], (16, 16, 3)).astype(np.uint8)
            pair = np.concatenate([np.full((16, 16, 3), 10 * place, dtype=np.uint8), label], axis=1)
            picture(root / "cityscapes" / part / f"{place:03d}.png", pair)
    return Cityscapes(**{"root": str(root), "size": 8, **settings})


def test_a_pair_has_its_photograph_left_and_its_label_map_right(tmp_path: Path) -> None:
    train, test = pairs(tmp_path).read()
    assert train.images.shape == train.targets.shape == (20, 3, 8, 8)
    assert test.size == 4
    assert train.images[7].unique().tolist() == [70]
    assert train.targets[7, :, 3, 3].tolist() == list(Cityscapes.palette[7])


def test_the_other_direction_swaps_images_and_targets(tmp_path: Path) -> None:
    one, other = pairs(tmp_path).read()[0], pairs(tmp_path, direction="label_to_photo").read()[0]
    assert torch.equal(one.images, other.targets)
    assert torch.equal(one.targets, other.images)
    assert one.digest() != other.digest()


def test_a_label_map_gets_no_colour_that_it_had_not(tmp_path: Path) -> None:
    label = np.zeros((16, 16, 3), dtype=np.uint8)
    label[:, 5:] = COLOURS["sidewalk"]
    for part in ("train", "val"):
        for place in range(3):
            pair = np.concatenate([colour(16, 16), label], axis=1)
            picture(tmp_path / "cityscapes" / part / f"{place}.png", pair)
    targets = Cityscapes(root=str(tmp_path), size=7).read()[0].targets
    assert set(map(tuple, targets.permute(0, 2, 3, 1).reshape(-1, 3).tolist())) == {(0, 0, 0), COLOURS["sidewalk"]}


def test_pairs_are_moved_and_mirrored_together(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for place in range(20):
            half = colour(8, 8)
            picture(tmp_path / "cityscapes" / part / f"{place}.png", np.concatenate([half, half], axis=1))
    source = Cityscapes(root=str(tmp_path), size=8, crop=2, flip=True)
    data = Data.read(source)
    for batch in Stream(data.train, data.train_places, source, 6, 0, "distill", torch.device("cpu")).epoch(1):
        assert torch.equal(batch.images, batch.targets)
        assert batch.images.abs().max() < 1 + 1e-6


def test_an_image_of_uneven_width_is_no_pair(tmp_path: Path) -> None:
    source = pairs(tmp_path)
    picture(tmp_path / "cityscapes" / "train" / "003.png", colour(16, 33))
    message = complaint(source.read)
    assert message.startswith(f"{tmp_path}/cityscapes/train/003.png: is 33 pixels wide; a pair has two halves")


def official(root: Path) -> Cityscapes:
    for part in ("train", "val"):
        for city, number in (("aachen", 3), ("bonn", 2)):
            for place in range(number):
                name = f"{city}_{place:06d}_000019"
                label = np.full((16, 32, 4), 255, dtype=np.uint8)
                label[..., :3] = list(COLOURS.values())[place]
                picture(root / "cityscapes/leftImg8bit" / part / city / f"{name}_leftImg8bit.png", colour(16, 32))
                picture(root / "cityscapes/gtFine" / part / city / f"{name}_gtFine_color.png", label)
    return Cityscapes(root=str(root), size=8, layout="official")


def test_the_official_layout_pairs_photos_and_label_maps_by_name(tmp_path: Path) -> None:
    train, test = official(tmp_path).read()
    assert train.images.shape == test.targets.shape == (5, 3, 8, 8)
    assert [tuple(target[:, 0, 0].tolist()) for target in train.targets] == [
        Cityscapes.palette[place] for place in (0, 1, 2, 0, 1)
    ]


def test_a_photograph_without_its_label_map_is_named(tmp_path: Path) -> None:
    source = official(tmp_path)
    label = tmp_path / "cityscapes/gtFine/val/bonn/bonn_000001_000019_gtFine_color.png"
    label.unlink()
    assert complaint(source.read).startswith(f"{label}: no such file, and ")


def test_cityscapes_are_wanted_where_they_should_lie(tmp_path: Path) -> None:
    message = complaint(Cityscapes(root=str(tmp_path)).read)
    assert message.startswith(f"dataset.root: no images in '{tmp_path}/cityscapes/train' (dataset.layout=pairs)")
