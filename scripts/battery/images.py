"""Hostile images, and folders of images, as data sets."""

from __future__ import annotations

import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from battery.cases import Battery, Case, untrained
from battery.corruption import SHORT
from battery.runner import Outcome

FOLDER = [
    "train",
    "dataset=folder",
    "dataset.root=pics",
    "dataset.size=8",
    "batch_size=4",
    *[word for word in SHORT if not word.startswith("batch_size")],
]
EVERYTHING = ("o", "o/*")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(hit) (w) file closefile\nshowpage\n%%EOF\n"

Put = Callable[[Path], object]


def write(content: bytes) -> Put:
    return lambda path: path.write_bytes(content)


def image(size: tuple[int, int], mode: str = "1", suffix: str = "PNG", **options: Any) -> Put:
    return lambda path: Image.new(mode, size).save(path, suffix, **options)


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG that announces a size and holds nothing of it."""
    import zlib

    chunk = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = b"IHDR" + chunk
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + parts
        + struct.pack(">I", zlib.crc32(parts))
        + struct.pack(">I", 0)
        + b"IEND\xaeB`\x82"
    )


def broken_exif(path: Path) -> None:
    picture = Image.new("RGB", (12, 12))
    picture.save(path, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0" * 40)


def several_large(path: Path) -> None:
    for number in range(6):
        Image.new("1", (8190, 8190)).save(path.with_name(f"large{number}.png"))


def many_frames(path: Path) -> None:
    frames = [Image.new("L", (2000, 2000), number) for number in range(40)]
    frames[0].save(path, "TIFF", save_all=True, append_images=frames[1:], compression="tiff_deflate")


IMAGES: dict[str, tuple[str, Put, tuple[int, ...]]] = {
    "an EPS": ("x.png", write(EPS), (3,)),
    "an EPS called .jpg": ("x.jpg", write(EPS), (3,)),
    "a PDF": ("x.png", write(b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n%%EOF"), (3,)),
    "a WMF": ("x.bmp", write(b"\xd7\xcd\xc6\x9a" + bytes(100)), (3,)),
    "a FITS": ("x.tif", write(b"SIMPLE  =                    T" + b" " * 2850), (3,)),
    "a PSD": ("x.png", write(b"8BPS\0\x01" + bytes(200)), (3,)),
    "an SVG": (
        "x.png",
        write(b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"),
        (3,),
    ),
    "an ICO": ("x.png", lambda path: Image.new("RGB", (16, 16)).save(path, "ICO"), (0, 3)),
    "text": ("x.png", write(b"hello"), (3,)),
    "empty": ("x.png", write(b""), (3,)),
    "a Git LFS pointer": ("x.png", write(b"version https://git-lfs.github.com/spec/v1\n"), (3,)),
    "a pickle": ("x.png", write(pickle.dumps({})), (3,)),
    "a PNG of 2^31 x 2^31": ("x.png", write(png_header(2**31 - 1, 2**31 - 1)), (3,)),
    "a PNG of 0 x 0": ("x.png", write(png_header(0, 0)), (3,)),
    "a PNG that announces 8000 x 8000": ("x.png", write(png_header(8000, 8000)), (3,)),
    "6 PNGs of 8190 x 8190": ("x.png", several_large, (0, 3)),
    "a PNG of 65500 x 1000": ("x.png", image((65500, 1000)), (0, 3)),
    "a PNG of 30000 x 30000": ("x.png", image((30000, 30000)), (3,)),
    "a PNG of 1 x 60000": ("x.png", image((1, 60000)), (0, 3)),
    "a GIF of 65000 x 1000": ("x.gif", image((65000, 1000), "P", "GIF"), (0, 3)),
    "a TIFF of 40 frames": ("x.tif", many_frames, (0, 3)),
    "a TIFF of 16 bits": ("x.tif", lambda path: Image.fromarray(np.zeros((9, 9), np.uint16)).save(path), (3,)),
    "a TIFF of floats": ("x.tif", lambda path: Image.fromarray(np.zeros((9, 9), np.float32)).save(path), (3,)),
    "a TIFF directory that points to itself": ("x.tif", write(b"II*\0\x08\0\0\0\0\0\x08\0\0\0"), (3,)),
    "CMYK": ("x.jpg", image((12, 12), "CMYK", "JPEG"), (0, 3)),
    "a palette with transparency": ("x.png", image((12, 12), "P", "PNG", transparency=b"\0" * 256), (0,)),
    "broken EXIF": ("x.jpg", broken_exif, (0, 3)),
    "text of 50 MB in a PNG": ("x.png", lambda path: text_chunk(path), (0, 3)),
    "a broken ICC profile": ("x.png", image((12, 12), "RGB", "PNG", icc_profile=b"x" * 1000), (0,)),
    "a PNG cut in the middle": ("x.png", lambda path: path.write_bytes(noise_png()[:400]), (3,)),
    "a JPEG cut in the middle": ("x.jpg", lambda path: cut_jpeg(path), (3,)),
    "a fifo": ("x.png", lambda path: os.mkfifo(path), (0, 3)),
    "a socket": ("x.png", lambda path: os.mknod(path, 0o140666), (0, 3)),
    "a device": ("x.png", lambda path: path.symlink_to("/dev/zero"), (0, 3)),
    "/dev/random": ("x.png", lambda path: path.symlink_to("/dev/random"), (0, 3)),
    "a folder": ("x.png", lambda path: path.mkdir(), (0, 3)),
    "a link to nowhere": ("x.png", lambda path: path.symlink_to("nowhere"), (0, 3)),
    "a loop of links": ("x.png", lambda path: path.symlink_to("x.png"), (0, 3)),
    "a name that is not UTF-8": (
        "x.png",
        lambda path: shutil.copy(path.with_name("0.png"), os.fsencode(str(path.parent)) + b"/\xff.png"),
        (0, 3),
    ),
    "a name with an escape": ("x.png", lambda path: path.with_name("\x1b]0;hit\x07.png").write_bytes(b"x"), (3,)),
    "a name of lines": ("x.png", lambda path: path.with_name("a\nkdrun: error: b.png").write_bytes(b"x"), (3,)),
}


def noise_png() -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def cut_jpeg(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:2000])


def text_chunk(path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("x", "y" * 50_000_000, zip=True)
    Image.new("RGB", (12, 12)).save(path, "PNG", pnginfo=info)


def outside_link(kind: str) -> Put:
    """Puts a link out of the folder: an image, or a whole class."""

    def put(path: Path) -> None:
        outside = path.parents[3] / "outside"
        (outside / "more").mkdir(exist_ok=True)
        Image.new("RGB", (12, 12), (250, 0, 0)).save(outside / "more" / "z.png")
        if kind == "image":
            path.symlink_to(outside / "more" / "z.png")
        else:
            (path.parents[1] / "zz").symlink_to(outside / "more")

    return put


TREES: dict[str, tuple[Put, tuple[int, ...]]] = {
    "no class": (lambda pics: [shutil.rmtree(path) for path in pics.iterdir()], (3,)),
    "one class": (lambda pics: [shutil.rmtree(pics / name) for name in "bc"], (2, 3)),
    "an empty class": (lambda pics: (pics / "d").mkdir(), (3,)),
    "a class of other files": (lambda pics: ((pics / "d").mkdir(), (pics / "d/x.txt").write_text("x"))[0], (3,)),
    "a class that is a link to /etc": (lambda pics: (pics / "c2").symlink_to("/etc"), (3,)),
    "a class that is a loop": (lambda pics: (pics / "c2").symlink_to("c2"), (3,)),
    "a class that is the folder itself": (lambda pics: (pics / "c2").symlink_to("."), (3,)),
    "a class with an escape in its name": (lambda pics: (pics / "a").rename(pics / "\x1b]0;hit\x07"), (0, 3)),
    "a class of markup": (lambda pics: (pics / "a").rename(pics / "[bold]x[red]"), (0,)),
    "a class not UTF-8": (lambda pics: os.rename(pics / "a", os.fsencode(str(pics)) + b"/\xff"), (0, 3)),
    "train without test": (
        lambda pics: [
            (pics / "train").mkdir(),
            *[path.rename(pics / "train" / path.name) for path in list(pics.iterdir()) if len(path.name) == 1],
        ],
        (0, 2, 3),
    ),
    "test with other classes": (
        lambda pics: [
            shutil.copytree(pics / "a", pics / "train/a"),
            shutil.copytree(pics / "b", pics / "train/b"),
            shutil.copytree(pics / "c", pics / "test/c"),
        ],
        (3,),
    ),
}


def cases(battery: Battery) -> Iterator[Case]:
    for name, (file, put, codes) in list(IMAGES.items())[:: battery.some(1, 6)]:
        yield in_folder(battery, f"image: {name}", lambda box, file=file, put=put: put(box / "pics/b" / file), codes)
    for kind in ("image", "class"):
        yield in_folder(
            battery,
            f"a link to {kind} outside",
            lambda box, kind=kind: outside_link(kind)(box / "pics/b/z.png"),
            (0, 3),
        )
    for name, (put, codes) in list(TREES.items())[:: battery.some(1, 5)]:
        yield in_folder(battery, f"folder: {name}", lambda box, put=put: put(box / "pics"), codes)
    for root in ("nope", "x.txt", "/dev/null", "/proc/self", "pics/a/0.png", "", "\x1b]0;hit\x07"):
        yield Case(
            f"dataset.root={root!r}",
            [*FOLDER, f"dataset.root={root}"],
            make=battery.laid("folder"),
            codes=(2, 3),
            writes=EVERYTHING,
        )


def in_folder(battery: Battery, name: str, put: Callable[[Path], object], codes: tuple[int, ...]) -> Case:
    def make(box: Path) -> None:
        battery.laid("folder")(box)
        put(box)

    words = [*FOLDER, "dataset.classes=0"]
    return Case(
        name,
        words,
        make=make,
        codes=codes,
        names=("pics", "dataset"),
        writes=EVERYTHING,
        seconds=30,
        megabytes=500,
        check=untrained if 0 not in codes else quick,
    )


def quick(box: Path, outcome: Outcome) -> str:
    return f"took {outcome.seconds:.0f} s" if outcome.seconds > 15 else ""
