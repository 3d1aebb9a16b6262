"""What is fuzzed: for each target, inputs that are right, how one is mutated, and how it is fed to kdrun."""

from __future__ import annotations

import gzip
import io
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from battery.mutate import container, mutated
from battery.runner import Outcome
from battery.stock import build, teacher
from kdrun.cli import main

Feed = Callable[["Target", Path, Random], Outcome]


@dataclass
class Target:
    """A kind of input.

    Args:
        name: of the target.
        files: patterns of the files of the stock that may be mutated, by the part of the stock that holds them.
        use: writes nothing, feeds what ``write`` has written.
        batch: inputs of one forked process.
        seconds: the most that an input may take before the process is ended.
    """

    name: str
    files: dict[str, str]
    use: Callable[[Path, Path, str], Outcome]
    batch: int = 40
    seconds: float = 8.0
    place: Path = field(default=Path(), repr=False)

    def stock(self, place: Path) -> None:
        """Makes the right inputs, once for all targets."""
        self.place = place
        if not place.is_dir():
            build(place)
            more(place)

    def prepare(self, box: Path) -> None:
        """Nothing is in the box but what an input brings."""

    def write(self, box: Path, chance: Random) -> tuple[Path, str]:
        """Lays a part of the stock into the box with one file mutated; returns the file and the part."""
        lot = chance.choice(sorted(self.files))
        for old in list(box.iterdir()):
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        shutil.copytree(self.place / lot, box, symlinks=True, dirs_exist_ok=True)
        paths = sorted(path for path in box.glob(self.files[lot]) if path.is_file())
        path = chance.choice(paths)
        others = [other.read_bytes() for other in paths[:8]]
        path.write_bytes(container(path.read_bytes(), others, chance))
        return path, lot

    def feed(self, box: Path, chance: Random) -> Outcome:
        path, lot = self.write(box, chance)
        return self.use(box, path, lot)


def more(stock: Path) -> None:
    """Adds what the battery's own stock lacks: files of weights in a folder, packed idx files, methods."""
    (stock / "weights").mkdir()
    for name in ("t.pt", "t.safetensors"):
        shutil.copy(stock / name, stock / "weights" / name)
    import torch

    torch.save(
        {"state_dict": teacher(), "epoch": 3}, stock / "weights" / "old.pth", _use_new_zipfile_serialization=False
    )
    shutil.copytree(stock / "idx", stock / "idxgz")
    for path in list((stock / "idxgz/data/MNIST/raw").iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        path.unlink()
    from kdrun.config.places import CONF

    (stock / "conf/conf/method").mkdir(parents=True)
    for path in (CONF / "method").glob("*.yaml"):
        shutil.copy(path, stock / "conf/conf/method" / f"x_{path.name}")


def command(*argv: str) -> Outcome:
    """Runs a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(argv))
    sys.stdout.flush()
    return Outcome(code, out.getvalue(), err.getvalue())


def checkpoint(box: Path, path: Path, lot: str) -> Outcome:
    """Reads weights from a file and loads them into a model."""
    from kdrun.models.loading import fill, read
    from kdrun.models.mlp import MLP

    fill(MLP(1, 10, 8, hidden=[32]), read(path), path, "teacher.checkpoint")
    return Outcome(0)


def stage(box: Path, path: Path, lot: str) -> Outcome:
    return command("train", "resume=o/run")


def report(box: Path, path: Path, lot: str) -> Outcome:
    return command("report", "o/run")


def config(box: Path, path: Path, lot: str) -> Outcome:
    return command("train", "--cfg", "job", f"method={path.stem}")


def data(box: Path, path: Path, lot: str) -> Outcome:
    """Reads a data set."""
    from kdrun.data.cifar import CIFAR10
    from kdrun.data.folder import Folder
    from kdrun.data.idx import MNIST
    from kdrun.data.svhn import SVHN

    if lot == "folder":
        Folder(root="pics", size=8).read()
    else:
        kind = {"idx": MNIST, "idxgz": MNIST, "cifar": CIFAR10, "svhn": SVHN}[lot]
        kind(root="data", verify=False, download=False).read()
    return Outcome(0)


LINES = (
    "train method=kd method.temperature=4 seed=1 epochs=2",
    "train method=fitnets method.hint=1 optimizer=sgd optimizer.lr=0.1 schedule=steps",
    "train experiment=kd_mnist dataset=synthetic",
    "train -m method=kd,fitnets seed=range(0,3)",
    "train name=a,b out=x teacher.recipe.epochs=3 +teacher.mean=[0.5] ~claims",
    "train 'dataset.mean=[0.5,0.5,0.5]' dataset=cifar10 dataset.val_fraction=0.1",
    "train method=takd method.assistants=[mlp_32,mlp_30] method.base=fitnets",
    "train hydra/launcher=basic hydra.mode=MULTIRUN trust=[os] method._target_=kdrun.methods.kd.KD",
    "train resume=o/run device=cpu threads=2",
    "train claims={student: 1.0} name=${oc.env:HOME} seed=choice(1,2)",
    "report o/run --out x",
    "ls method",
    "-sc query=bash",
)


class Words(Target):
    """Words of the command line; nothing is trained, for ``--cfg job`` is among them."""

    def write(self, box: Path, chance: Random) -> tuple[Path, str]:
        line = chance.choice(LINES)
        others = [other.encode() for other in LINES]
        text = mutated(line.encode(), others, chance).decode("utf-8", "surrogateescape").replace("\n", " ")
        words = [word.replace("\0", "") for word in text.split(" ")][:30]
        (box / "line.json").write_bytes(" ".join(words).encode("utf-8", "surrogateescape"))
        return box / "line.json", " ".join(words)

    def feed(self, box: Path, chance: Random) -> Outcome:
        _, text = self.write(box, chance)
        words = text.split(" ")
        if words[0] in ("report", "ls", "-sc"):
            return command(*words)
        return command("train", "--cfg", "job", *words[words[0] == "train" :])


TARGETS = {
    target.name: target
    for target in (
        Target("configs", {"conf": "conf/method/*.yaml"}, config),
        Words("words", {}, config),
        Target("checkpoints", {"weights": "*"}, checkpoint),
        Target("stages", {"stopped": "o/run/stages/*"}, stage, batch=10, seconds=12),
        Target("resumed", {"stopped": "o/run/*.*", "whole": "o/run/[rsmc]*.*"}, stage, batch=10, seconds=12),
        Target("stored", {"stopped": "o/models/*/*.*"}, stage, batch=10, seconds=12),
        Target("reported", {"whole": "o/run/[rsmc]*.*", "sweep": "o/run/*/[rsmc]*.*"}, report, batch=20, seconds=10),
        Target(
            "data",
            {
                "idx": "data/MNIST/raw/*",
                "idxgz": "data/MNIST/raw/*",
                "cifar": "data/*/*",
                "svhn": "data/SVHN/*",
                "folder": "pics/*/*",
            },
            data,
            seconds=8,
        ),
    )
}
