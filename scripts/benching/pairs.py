"""The pairs of teacher and student that are timed, and the shapes of their images."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """The shape of a data set's images and how they are augmented and normalized."""

    dataset: str  # the data set that has this shape
    channels: int
    size: int
    classes: int
    crop: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def words(self, train: int, test: int) -> list[str]:
        """Returns the words of a run on random images of this shape: ``train`` to train on, ``test`` to test on."""
        numbers = {"channels": self.channels, "size": self.size, "classes": self.classes, "crop": self.crop}
        lists = {"mean": f"[{','.join(map(str, self.mean))}]", "std": f"[{','.join(map(str, self.std))}]"}
        count = train + train // 8 + 2  # so many that a tenth may be set aside for validation
        counts = {"train_count": count, "train_size": train, "test_count": test}
        keys = {**numbers, **lists, **counts, "flip": str(self.flip).lower()}
        return ["dataset=synthetic", *(f"dataset.{key}={value}" for key, value in keys.items())]


CIFAR10 = Shape("cifar10", 3, 32, 10, 4, True, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100 = Shape("cifar100", 3, 32, 100, 4, True, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
MNIST = Shape("mnist", 1, 28, 10, 0, False, (0.1307,), (0.3081,))
MNIST32 = Shape("mnist", 1, 32, 10, 0, False, (0.1307,), (0.3081,))


@dataclass(frozen=True)
class Pair:
    """A teacher, a student and the shape of their images; ``images`` are trained on in one timed pass."""

    teacher: str
    student: str
    shape: Shape
    images: int

    @property
    def name(self) -> str:
        return f"{self.teacher} > {self.student}"


RESNET56_20 = Pair("resnet56", "resnet20", CIFAR10, 640)
RESNET56_8 = Pair("resnet56", "resnet8", CIFAR10, 640)
RESNET20_8 = Pair("resnet20", "resnet8", CIFAR10, 640)
LENET = Pair("lenet5", "lenet5_half", MNIST32, 6_400)
MLP = Pair("mnist_cnn", "mlp_32", MNIST, 12_800)

PAIRS = [RESNET56_20, RESNET56_8, RESNET20_8, LENET, MLP]
