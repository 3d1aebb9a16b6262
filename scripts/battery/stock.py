"""The stock: finished and stopped runs, a store, data sets and models, made once and copied into boxes."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from battery.runner import TINY, Outcome, furnish, start
from kdrun.models.mlp import MLP

FITNETS = [*TINY, "method=fitnets", "method.hint_epochs=1", "name=run"]
VOLATILE = (
    "time",
    "seconds",
    "started",
    "ended",
    "train_seconds",
    "train_cpu_seconds",
    "teacher_images_run",
    "stages",
    "sha256",
)


def build(stock: Path) -> None:
    """Fills the folder ``stock``: whole, stopped, sweep, folder, idx, cifar, svhn, and files of weights."""
    for name, words, env, code in (
        ("whole", FITNETS, {}, 0),
        ("stopped", FITNETS, {"KDRUN_TESTING": "1", "KDRUN_FAULT": "term@mlp_16 by fitnets/distill:5"}, 143),
        ("sweep", ["-m", *TINY, "method=kd", "seed=0,1", "name=run"], {}, 0),
    ):
        outcome = command(stock / f".{name}", ["train", *words], **env)
        if outcome.code != code:
            raise SystemExit(f"the stock cannot be made: exit code {outcome.code}\n{outcome.out}{outcome.err}")
        shutil.copytree(stock / f".{name}" / "box", stock / name)
    torch.manual_seed(0)
    net = teacher()
    torch.save(net, stock / "t.pt")
    save_file(net, stock / "t.safetensors")
    pictures(stock / "folder" / "pics")
    idx(stock / "idx" / "data" / "MNIST" / "raw")
    cifar(stock / "cifar" / "data" / "cifar-10-batches-py")
    svhn(stock / "svhn" / "data" / "SVHN")


def command(top: Path, argv: list[str], seconds: float = 120, **env: str) -> Outcome:
    """Runs a command in the box of ``top``, which is furnished if it is not there."""
    if not (top / "box").is_dir():
        furnish(top)
    return start(top, argv, env).finish(seconds)


def teacher() -> dict[str, torch.Tensor]:
    """The state_dict of mlp_32 for 8 x 8 grey images and 10 classes."""
    net = MLP(1, 10, 8, hidden=[32])
    return {name: value.clone() for name, value in net.state_dict().items()}


def pictures(root: Path, count: int = 6, side: int = 12) -> None:
    draw = np.random.default_rng(0)
    for label in "abc":
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(root / label / f"{number}.png")


def idx_bytes(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def idx(folder: Path, packed: bool = False) -> None:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part, count in (("train", 80), ("t10k", 20)):
        images = idx_bytes(draw.integers(0, 256, (count, 28, 28)))
        for name, content in (
            (f"{part}-images-idx3-ubyte", images),
            (f"{part}-labels-idx1-ubyte", idx_bytes(np.arange(count) % 10)),
        ):
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)


def batch(count: int, seed: int) -> dict[str, Any]:
    draw = np.random.default_rng(seed)
    return {
        "data": draw.integers(0, 256, (count, 3072), dtype=np.uint8),
        "labels": [place % 10 for place in range(count)],
    }


def cifar(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(pickle.dumps(batch(20, number), protocol=2))
    (folder / "test_batch").write_bytes(pickle.dumps(batch(20, 0), protocol=2))
    (folder / "batches.meta").write_bytes(
        pickle.dumps({"label_names": list("abcdefghij"), "num_vis": 3072}, protocol=2)
    )


def svhn(folder: Path) -> None:
    from scipy.io import savemat

    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        images = draw.integers(0, 256, (32, 32, 3, 40), dtype=np.uint8)
        savemat(folder / f"{part}_32x32.mat", {"X": images, "y": (np.arange(40) % 10 + 1)[:, None].astype(np.uint8)})


def plain(content: Any) -> Any:
    """Returns JSON without what differs between two equal runs: times, and digests of files that hold times."""
    if isinstance(content, dict):
        return {key: plain(value) for key, value in content.items() if not volatile(str(key))}
    return [plain(value) for value in content] if isinstance(content, list) else content


def volatile(key: str) -> bool:
    return key in VOLATILE or key.startswith(("train_seconds/", "versions", "environment", "files", "digest", "seal"))


def results(folder: Path) -> dict[str, Any]:
    """Returns what a run folder or a store says, comparable: weights as bytes, records without times."""
    return dict(every_result(folder))


def every_result(folder: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            yield name, path.read_bytes()
        elif path.name == "metrics.jsonl":
            yield name, [plain(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
        elif path.name in ("summary.json", "run.json", "manifest.json"):
            yield name, plain(json.loads(path.read_text("utf-8")))
        elif path.name == "config.yaml":
            yield name, path.read_bytes()


def differing(one: Path, other: Path) -> list[str]:
    """Returns the names of what two folders say differently; unreadable counts as different."""
    try:
        ours, theirs = results(one), results(other)
    except ValueError as error:
        return [str(error)]
    return sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
