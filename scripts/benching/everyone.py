"""The loop everyone writes: a DataLoader over PIL images, torchvision's transforms, ``.item()`` in every step.

As a program it is one training, with a test after each epoch:

    python -m benching.everyone --teacher resnet20 --student resnet8 --weights F --images 640 --tests 200 --epochs 2

It takes nothing of kdrun but its nets.
"""

from __future__ import annotations

import argparse
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, transforms

from benching.pairs import PAIRS, Pair, Shape

MODELS = Path(__file__).resolve().parents[2] / "conf" / "model"
BATCH = 64
TEMPERATURE = 4.0


class RandomImages(Dataset[tuple[Tensor, int]]):
    """Random PIL images of a shape, and what ``transform`` makes of them."""

    def __init__(self, shape: Shape, count: int, transform: transforms.Compose) -> None:
        chance, size = np.random.default_rng(0), (count, shape.size, shape.size)
        pixels = chance.integers(0, 256, size if shape.channels == 1 else (*size, shape.channels), np.uint8)
        self.images = [Image.fromarray(each) for each in pixels]
        self.labels = chance.integers(0, shape.classes, count).tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(self.images[place]), self.labels[place]


def transform_of(shape: Shape, training: bool, pad: int = 0) -> transforms.Compose:
    """Returns the transforms of a shape: pad, crop and flip where it has them, to a tensor, normalize."""
    steps: list[object] = [transforms.Pad(pad)] if pad else []
    if training and shape.crop:
        steps.append(transforms.RandomCrop(shape.size, padding=shape.crop))
    if training and shape.flip:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(shape.mean, shape.std)])


def net(name: str, shape: Shape) -> nn.Module:
    """Returns kdrun's net of this name as a plain module of torch."""
    node = yaml.safe_load((MODELS / f"{name}.yaml").read_text("utf-8"))
    module, _, cls = node["_target_"].rpartition(".")
    arguments = {key: value for key, value in node.items() if key not in ("_target_", "taps", "recipe")}
    return getattr(import_module(module), cls)(shape.channels, shape.classes, shape.size, **arguments)


def train_epoch(
    loader: DataLoader[tuple[Tensor, int]], teacher: nn.Module, student: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[float, float]:
    """Trains for one epoch by Hinton's distillation; returns the mean of loss and accuracy."""
    teacher.eval()
    student.train()
    losses = hits = count = 0.0
    for images, labels in loader:
        with torch.no_grad():
            wanted = teacher(images)
        logits = student(images)
        soft = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, 1), F.softmax(wanted / TEMPERATURE, 1), reduction="batchmean"
        )
        loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * TEMPERATURE**2 * soft
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy = (logits.argmax(1) == labels).float().mean()
        losses += loss.item() * len(labels)
        hits += accuracy.item() * len(labels)
        count += len(labels)
    return losses / count, hits / count


@torch.no_grad()
def test(loader: DataLoader[tuple[Tensor, int]], student: nn.Module) -> float:
    """Returns the accuracy."""
    student.eval()
    hits = [(student(images).argmax(1) == labels).float().sum().item() for images, labels in loader]
    return sum(hits) / len(loader.dataset)  # type: ignore[arg-type]


class Everyone:
    """The loop on the random images of a pair, with untrained nets."""

    def __init__(self, pair: Pair, images: int) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        data = RandomImages(pair.shape, images, transform_of(pair.shape, True))
        self.loader = DataLoader(data, BATCH, shuffle=True, num_workers=0)
        self.teacher, self.student = net(pair.teacher, pair.shape), net(pair.student, pair.shape)
        self.optimizer = optimizer_of(self.student)
        with torch.no_grad():  # gives the teacher's BatchNorm the statistics of the images
            for each, _ in self.loader:
                self.teacher.train()(each)
        self.loss = 0.0

    def seconds(self) -> float:
        """Returns the CPU seconds of one epoch."""
        began = time.process_time()
        self.loss, _ = train_epoch(self.loader, self.teacher, self.student, self.optimizer)
        return time.process_time() - began


def optimizer_of(student: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(student.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)


def real(shape: Shape, root: str, training: bool, count: int | None) -> Dataset[tuple[Tensor, int]]:
    """Returns the first ``count`` images of a real data set."""
    cls, pad = {"mnist": (datasets.MNIST, (shape.size - 28) // 2), "cifar10": (datasets.CIFAR10, 0)}[shape.dataset]
    data = cls(root, training, transform_of(shape, training, pad))
    return data if count is None else Subset(data, range(count))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", required=True)
    parser.add_argument("--weights", required=True, help="of the teacher")
    parser.add_argument("--images", type=int, required=True, help="to train on")
    parser.add_argument("--tests", type=int, help="images to test on (default: all of a real data set)")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", help="of the real data set (default: random images)")
    return parser.parse_args()


def loader(shape: Shape, root: str | None, training: bool, count: int) -> DataLoader[tuple[Tensor, int]]:
    """Returns the loader of the images to train or to test on."""
    if root:
        return DataLoader(real(shape, root, training, count), BATCH, shuffle=training)
    return DataLoader(RandomImages(shape, count, transform_of(shape, training)), BATCH, shuffle=training)


def main() -> None:
    """Trains a student for some epochs and tests it after each."""
    options = parsed()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    shape = next(pair.shape for pair in PAIRS if (pair.teacher, pair.student) == (options.teacher, options.student))
    images, tests = (loader(shape, options.root, *each) for each in ((True, options.images), (False, options.tests)))
    teacher, student = net(options.teacher, shape), net(options.student, shape)
    teacher.load_state_dict(load_file(options.weights))
    optimizer = optimizer_of(student)
    for epoch in range(options.epochs):
        loss, accuracy = train_epoch(images, teacher, student, optimizer)
        print(f"epoch {epoch}: loss {loss:.4f}, accuracy {accuracy:.4f}, test {test(tests, student):.4f}")


if __name__ == "__main__":
    main()
