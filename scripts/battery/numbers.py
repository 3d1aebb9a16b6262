"""Numbers at the edge, trained: nothing that is not finite is written, and what fails says why."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from battery.cases import Battery, Case
from battery.runner import TINY, Outcome

WORDS = ["train", *TINY, "name=run", "baseline=false"]

RUNS: dict[str, tuple[list[str], tuple[int, ...], tuple[str, ...]]] = {
    "std 1e-38": (["dataset.std=[1e-38]"], (1, 2), ("std", "finite")),
    "std 1e-300": (["dataset.std=[1e-300]"], (1, 2), ("std", "finite")),
    "std 1e30": (["dataset.std=[1e30]"], (0, 1, 2), ()),
    "mean 1e38": (["dataset.mean=[1e38]"], (1, 2), ("mean", "finite")),
    "mean 1e300": (["dataset.mean=[1e300]"], (1, 2), ("mean", "finite")),
    "weight_decay 1e30": (["optimizer.weight_decay=1e30"], (1, 2), ("weight_decay", "finite")),
    "weight_decay 1e10": (["optimizer.weight_decay=1e10"], (0, 1, 2), ()),
    "lr 1e30": (["optimizer.lr=1e30"], (1, 2), ("lr", "finite")),
    "lr 1e10": (["optimizer.lr=1e10"], (0, 1, 2), ()),
    "lr 1e-45": (["optimizer.lr=1e-45"], (0, 2), ()),
    "lr of the teacher 1e30": (["teacher.recipe.optimizer.lr=1e30"], (1, 2), ("lr", "finite")),
    "sgd, lr 1e20": (["optimizer=sgd", "optimizer.lr=1e20"], (1, 2), ("lr", "finite")),
    "sgd, momentum 0.9999999": (["optimizer=sgd", "optimizer.momentum=0.9999999"], (0, 1, 2), ()),
    "sgd, dampening -1": (["optimizer=sgd", "optimizer.dampening=-1"], (2,), ("dampening",)),
    "adam, eps 0": (["optimizer.eps=0"], (0, 1, 2), ()),
    "adam, betas 0": (["optimizer.betas=[0,0]"], (0, 1, 2), ()),
    "rmsprop, lr 1e30": (["optimizer=rmsprop", "optimizer.lr=1e30"], (1, 2), ("lr", "finite")),
    "adadelta, lr 1e38": (["optimizer=adadelta", "optimizer.lr=1e38"], (0, 1, 2), ()),
    "temperature 1e-45": (["method.temperature=1e-45"], (1, 2), ("temperature",)),
    "temperature 1e-30": (["method.temperature=1e-30"], (0, 1, 2), ("temperature",)),
    "temperature 1000": (["method.temperature=1000"], (0, 1, 2), ()),
    "both weights 0": (["method.kd_weight=0", "method.ce_weight=0"], (2,), ("weight",)),
    "kd_weight 1e38": (["method.kd_weight=1e38"], (0, 1, 2), ()),
    "kd_weight 1e300": (["method.kd_weight=1e300"], (1, 2), ("weight", "finite")),
    "hint_weight 1e38": (["method=fitnets", "method.hint_epochs=1", "method.hint_weight=1e38"], (0, 1, 2), ()),
    "gan_weight 1e38": (["method=gan", "method.gan_weight=1e38"], (0, 1, 2), ()),
    "gan, discriminator_lr 1e30": (["method=gan", "method.discriminator_lr=1e30"], (1, 2), ("lr", "finite")),
    "wgan, clip 1e38": (["method=wgan", "method.clip=1e38"], (0, 1, 2), ()),
    "wgan_gp, penalty 1e38": (["method=wgan_gp", "method.penalty=1e38"], (0, 1, 2), ()),
    "label_smoothing 1": (["method=scratch", "teacher=none", "method.label_smoothing=1"], (0, 2), ()),
    "noise 1e38": (["dataset.noise=1e38"], (0, 1, 2, 3), ()),
    "noise 1e300": (["dataset.noise=1e300"], (0, 1, 2, 3), ()),
    "bf16, lr 1e10": (["precision=bf16", "optimizer.lr=1e10"], (0, 1, 2), ()),
    "crop 1000000": (["dataset.crop=1000000"], (1, 2), ("crop",)),
    "crop 100000": (["dataset.crop=100000"], (1, 2), ("crop",)),
    "pad_to 1000000": (["dataset.pad_to=1000000"], (1, 2), ("pad_to", "size", "memory")),
    "pad_to 7": (["dataset.pad_to=7"], (2,), ("pad_to",)),
    "size 1000000": (["dataset.size=1000000"], (1, 2), ("size", "memory")),
    "size 200000": (["dataset.size=200000"], (1, 2), ("size", "memory")),
    "train_count 10^12": (["dataset.train_count=1000000000000"], (1, 2), ("train_count", "memory")),
    "test_count 10^12": (["dataset.test_count=1000000000000"], (1, 2), ("test_count", "memory")),
    "channels 10^9": (["dataset.channels=1000000000"], (1, 2), ("channels", "memory", "mean")),
    "classes 10^9": (["dataset.classes=1000000000"], (1, 2), ("classes", "memory")),
    "classes 1000 of 64 images": (["dataset.classes=1000"], (0, 2, 3), ()),
    "hidden 10^9": (["student.hidden=[1000000000]"], (1, 2), ("hidden", "student", "memory")),
    "hidden 10^5 and 10^6": (["student.hidden=[100000,1000000]"], (1, 2), ("hidden", "student", "memory")),
    "teacher hidden 10^9": (["teacher.hidden=[1000000000]"], (1, 2), ("hidden", "teacher", "memory")),
    "critic_width 10^9": (
        ["method=wgan", "method.critic_width=1000000000"],
        (1, 2),
        ("critic_width", "method", "memory"),
    ),
    "val_fraction 0": (["dataset.val_fraction=0"], (0, 2), ("val_fraction",)),
    "val_fraction 0.001": (["dataset.val_fraction=0.001"], (0, 2), ("val_fraction",)),
    "val_fraction 0.99": (["dataset.val_fraction=0.99"], (0, 2), ()),
    "train_size 1": (["dataset.train_size=1"], (0, 2, 3), ()),
    "train_size 10^9": (["dataset.train_size=1000000000"], (2, 3), ("train_size",)),
    "train_count 2": (["dataset.train_count=2"], (0, 2, 3), ()),
    "one image in the last batch, BatchNorm": (
        ["student=resnet8", "dataset.train_count=50", "dataset.val_fraction=0.02", "batch_size=16"],
        (0,),
        (),
    ),
}


def cases(battery: Battery) -> Iterator[Case]:
    for name, (words, codes, names) in list(RUNS.items())[:: battery.some(1, 8)]:
        replaced = {word.partition("=")[0] for word in words}
        base = [word for word in WORDS if word.partition("=")[0] not in replaced]
        if "teacher=none" in words:
            base = [word for word in base if not word.startswith("teacher")]
        method = [] if any(word.startswith("method=") for word in words) else ["method=kd"]
        yield Case(
            name,
            [*base, *method, *words],
            codes=codes,
            names=names,
            writes=("o", "o/*"),
            check=finite,
            seconds=40,
            megabytes=1500,
        )


def finite(box: Path, outcome: Outcome) -> str:
    """Every number that was written is finite: in JSON, in weights, in the state of optimizers."""
    for path in sorted(box.rglob("*")):
        if path.suffix in (".json", ".jsonl") and (word := senseless(path.read_text())):
            return f"{word} in {path.name}"
        if path.suffix == ".safetensors" and any(not tensor.isfinite().all() for tensor in load_file(path).values()):
            return f"{path.name} is not finite"
        if path.suffix == ".pt" and (what := infinite(state(path))):
            return f"{what} is not finite in {path.name}"
    return ""


def senseless(text: str) -> str:
    words: list[str] = []
    for line in text.splitlines() if "\n{" in text else [text]:
        json.loads(line, parse_constant=words.append)
    return words[0] if words else ""


def state(path: Path) -> object:
    from kdrun.store import files

    return files.load(path)[0]


def infinite(node: object, name: str = "") -> str:
    """Returns the name of the first tensor or number that is not finite; "" if there is none."""
    if isinstance(node, torch.Tensor):
        return name if node.is_floating_point() and not node.isfinite().all() else ""
    if isinstance(node, float):
        return name if not math.isfinite(node) and "best" not in name else ""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    return next((what for key, value in pairs if (what := infinite(value, f"{name}/{key}"))), "")
