"""Hostile and damaged run folders as ``resume``: refused in one line, or repaired to the result of an undisturbed run.

Nothing of them runs, and nothing is written elsewhere.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from battery import seals
from battery.cases import Battery, Case
from battery.edits import EVIL, Change, about, config, fifo, folder, gone, link, resealed_pickle, stage, text, without
from battery.runner import Outcome, furnish, start
from battery.stock import FITNETS, differing

TARGET = {"_target_": "os.system", "command": "touch hit", "name": "kd"}
URL = {
    "_target_": "torchvision.datasets.utils.download_url",
    "url": "file:///etc/hostname",
    "root": "../outside",
    "filename": "x",
    "name": "kd",
}

HOSTILE: dict[str, Change] = {
    "method os.system, trust recorded": config(method=TARGET, trust=["os", "posix"]),
    "student os.system, trust recorded": config(student=TARGET, trust=["os", "posix"]),
    "teacher builtins.exec, trust recorded": config(teacher___target_="builtins.exec", trust=["builtins"]),
    "dataset of a module beside it": lambda run: (
        config(dataset={"_target_": "evil.X"}, trust=["evil"])(run),
        (run.parent.parent / "evil.py").write_text(EVIL),
    ),
    "optimizer of a module beside it": lambda run: (
        config(optimizer={"_target_": "evil.X"}, trust=["evil"])(run),
        (run.parent.parent / "evil.py").write_text(EVIL),
    ),
    "schedule of a module in the folder": lambda run: (
        config(schedule={"_target_": "evil.X"}, trust=["evil"])(run),
        (run / "evil.py").write_text(EVIL),
    ),
    "method of a module beside it, trust not recorded": lambda run: (
        config(method={"_target_": "evil.X"})(run),
        (run.parent.parent / "evil.py").write_text(EVIL),
    ),
    "method download_url": config(method=URL),
    "dataset download_url": config(dataset=URL),
    "method kdrun.cli.main": config(method={"_target_": "kdrun.cli.main", "argv": ["train", "resume=x"], "name": "kd"}),
    "method of two targets": config(
        method={"_target_": "kdrun.methods.takd.TAKD", "base": TARGET, "assistants": ["mlp_16"], "name": "takd"},
        trust=["os"],
    ),
    "optimizer torch.save": config(optimizer={"_target_": "torch.save", "obj": 1, "f": "../outside/x"}),
    "out elsewhere": config(out="../outside/o"),
    "out absolute": config(out="/tmp/battery-elsewhere"),
    "out of the environment": config(out="${oc.env:KDRUN_BATTERY_TOKEN}"),
    "out a list": config(out=["a"]),
    "out null": config(out=None),
    "name elsewhere": config(name="../../outside/x"),
    "resume recorded": config(resume="elsewhere"),
    "dry_run recorded": config(dry_run="yes"),
    "teacher.checkpoint /dev/zero": config(teacher__checkpoint="/dev/zero"),
    "teacher.checkpoint a secret": config(teacher__checkpoint="${oc.env:KDRUN_BATTERY_TOKEN}"),
    "dataset.root a secret": config(dataset__root="${oc.env:KDRUN_BATTERY_TOKEN}"),
    "a resolver that is not there": config(seed="${nope:1}"),
    "an interpolation to itself": config(seed="${seed}"),
    "epochs a billion": config(epochs=10**9),
    "epochs negative": config(epochs=-1),
    "batch_size text": config(batch_size="four"),
    "an unknown key": config(nope=1),
    "hydra in it": config(hydra={"callbacks": {"x": {"_target_": "builtins.open", "file": "hit", "mode": "w"}}}),
    "images of 100,000 pixels": config(dataset__size=100_000),
    "10^12 images": config(dataset__train_count=10**12),
    "a hidden layer of 10^9": config(student__hidden=[10**9]),
    "another seed than the stages'": config(seed=1),
    "another method than the stages'": config(method__kd_weight=2.0),
    "another student than the stages'": config(student__hidden=[17]),
    "another data set than the stages'": config(dataset__seed=5),
}

DAMAGED: dict[str, Change] = {
    "config empty": text("config.yaml", ""),
    "config a list": text("config.yaml", "[1, 2]"),
    "config a number": text("config.yaml", "3"),
    "config text": text("config.yaml", "hello"),
    "config null": text("config.yaml", "null"),
    "config without out": without("config.yaml", "out"),
    "config without teacher": without("config.yaml", "teacher"),
    "config without method": without("config.yaml", "method"),
    "config without dataset, student": without("config.yaml", "dataset", "student"),
    "config without teacher.recipe": config(teacher={"_target_": "kdrun.models.mlp.MLP", "hidden": [32]}),
    "config not UTF-8": text("config.yaml", b"out: \xff\xfe"),
    "config with a tab": text("config.yaml", "a:\n\tb: 1\n"),
    "config with a key twice": text("config.yaml", "out: o\nout: p\n"),
    "config with NUL": text("config.yaml", b"out: o\0\n"),
    "config that is JSON": text("config.yaml", '{"out": "o"}'),
    "config with !!python/object": text("config.yaml", "out: !!python/object/apply:os.system ['touch hit']\n"),
    "config 3,000 deep": text("config.yaml", "out: " + "[" * 3000 + "]" * 3000),
    "config 3,000 deep in blocks": text("config.yaml", "".join(" " * level + "a:\n" for level in range(3000))),
    "config of aliases": text(
        "config.yaml",
        "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 6)),
    ),
    "config anchored in itself": text("config.yaml", "out: &a [*a]\n"),
    "config of 20 MB": text("config.yaml", "out: o\nx: '" + "y" * 20_000_000 + "'\n"),
    "config of 300,000 keys": text("config.yaml", "".join(f"k{n}: 1\n" for n in range(300_000))),
    "config a folder": folder("config.yaml"),
    "config a fifo": fifo("config.yaml"),
    "config a link to /dev/zero": link("config.yaml", "/dev/zero"),
    "config missing": gone("config.yaml"),
    "config missing, run.json missing": gone("config.yaml", "run.json"),
    "run.json missing": gone("run.json"),
    "run.json empty": text("run.json", ""),
    "run.json a list": text("run.json", "[]"),
    "run.json a number": text("run.json", "3"),
    "run.json null": text("run.json", "null"),
    "run.json not UTF-8": text("run.json", b"\xff"),
    "run.json 100,000 deep": text("run.json", "[" * 100_000 + "]" * 100_000),
    "run.json with overrides deep": text("run.json", '{"format": 2, "overrides": ' + "[" * 5000 + "]" * 5000 + "}"),
    "run.json with NaN": text("run.json", '{"format": NaN, "overrides": []}'),
    "run.json with 5,000 digits": text("run.json", '{"format": ' + "9" * 5000 + ', "overrides": []}'),
    "run.json a folder": folder("run.json"),
    "run.json a fifo": fifo("run.json"),
    "overrides null": about(overrides=None),
    "overrides a number": about(overrides=3),
    "overrides of numbers": about(overrides=[1, 2]),
    "overrides text": about(overrides="abc"),
    "environment a number": about(environment=3),
    "environment null": about(environment=None),
    "environment of lists": about(environment={"threads": [1], "torch": {"a": 1}}),
    "versions a number": about(versions=3),
    "teacher a number": about(teacher=3),
    "format 99": about(format=99),
    "format text": about(format="two"),
    "format a list": about(format=[2]),
    "metrics not UTF-8": text("metrics.jsonl", b"\xff\xfe\n"),
    "metrics of numbers": text("metrics.jsonl", "3\n4\n"),
    "metrics of lists": text("metrics.jsonl", "[]\n"),
    "metrics text": text("metrics.jsonl", "hello\n"),
    "metrics 100,000 deep": text("metrics.jsonl", "[" * 100_000 + "]" * 100_000 + "\n"),
    "metrics a folder": folder("metrics.jsonl"),
    "metrics a fifo": fifo("metrics.jsonl"),
    "metrics missing": gone("metrics.jsonl"),
    "metrics without stage": text("metrics.jsonl", '{"epoch": 1}\n'),
    "metrics empty": text("metrics.jsonl", ""),
    "stages without what they need": stage({"a": 1}),
    "stages that are lists": stage([1]),  # type: ignore[arg-type]
    "stages of a later format": stage({"format": 99, "after": "", "modules": {}, "rows": 0, "epochs": 9}),
    "stages with rows that are text": stage(
        {"format": 1, "after": "", "modules": {}, "rows": "x", "epochs": "y", "scores": 3}
    ),
    "stages that are pickles, sealed again": resealed_pickle,
    "stages empty": lambda run: [path.write_bytes(b"") for path in (run / "stages").iterdir()],
    "stages that are pickles": lambda run: [
        path.write_bytes(pickle.dumps({"a": 1})) for path in (run / "stages").iterdir()
    ],
    "stages that are folders": lambda run: [(path.unlink(), path.mkdir()) for path in list((run / "stages").iterdir())],
    "stages of 8 GB of nothing": lambda run: [os.truncate(path, 8 << 30) for path in (run / "stages").iterdir()],
    "stages a file": lambda run: (shutil.rmtree(run / "stages"), (run / "stages").write_text("x")),
    "stages a loop of links": lambda run: (shutil.rmtree(run / "stages"), (run / "stages").symlink_to("stages")),
    "lock a folder": lambda run: ((run / ".lock").unlink(missing_ok=True), (run / ".lock").mkdir()),
    "lock a link outside": link(".lock", "../../../outside/precious.txt"),
    "metrics a link outside": link("metrics.jsonl", "../../../outside/precious.txt"),
}

LARGE = ("images of 100,000 pixels", "10^12 images", "a hidden layer of 10^9")
"""Need more memory than there is, which may be an error of training."""

ANOTHER = {
    "another seed than the stages'": ["seed=1"],
    "another method than the stages'": ["method.kd_weight=2.0"],
    "another student than the stages'": ["student.hidden=[17]"],
    "another data set than the stages'": ["dataset.seed=5"],
}
"""What an honest run of these edits is started with: going on is right if it comes to the same."""

SLOW = ("epochs a billion",)


def cases(battery: Battery) -> Iterator[Case]:
    for name, change in [*list(HOSTILE.items())[:: battery.some(1, 6)], *list(DAMAGED.items())[:: battery.some(1, 8)]]:
        if name in SLOW:
            continue
        yield case(battery, name, change)
        if seals.is_sealed(battery.stock / "stopped/o/run"):
            yield case(battery, name, change, sealed=True)
    if seals.is_sealed(battery.stock / "stopped/o/run"):
        untouched = case(battery, "nothing but the order of keys", config(), sealed=True)
        yield replace(untouched, name="nothing but the order of keys, sealed again, is taken", codes=(0,))
    yield Case(
        "a teacher in the store whose manifest is a list",
        ["train", "resume=o/run"],
        make=store(battery, "[]"),
        codes=(0, 3),
        names=("manifest",),
        writes=("o", "o/*"),
    )
    yield Case(
        "a teacher in the store whose manifest is deep",
        ["train", "resume=o/run"],
        make=store(battery, "[" * 100_000),
        codes=(0, 3),
        names=("manifest",),
        writes=("o", "o/*"),
    )
    yield Case(
        "a teacher in the store without a digest",
        ["train", "resume=o/run"],
        make=store(battery, '{"scores": {}}'),
        codes=(0, 3),
        names=("manifest",),
        writes=("o", "o/*"),
    )


def store(battery: Battery, content: str) -> Callable[[Path], object]:
    def make(box: Path) -> None:
        battery.laid("stopped")(box)
        for path in (box / "o/models").glob("mlp_32*/manifest.json"):
            path.write_text(content)

    return make


def case(battery: Battery, name: str, change: Change, sealed: bool = False) -> Case:
    """One edit of a stopped run; ``sealed``: with all digests made right for it."""

    def make(box: Path) -> None:
        battery.laid("stopped")(box)
        change(box / "o/run")
        if sealed:
            seals.seal(box / "o/run")

    def right(box: Path, outcome: Outcome) -> str:
        different = []
        if outcome.code == 0 and name in ANOTHER and sealed:
            furnish(box.parent / "honest")
            start(box.parent / "honest", ["train", *FITNETS, *ANOTHER[name]]).finish(60)
            different = weights(box / "o/run", box.parent / "honest/box/o/run")
        elif outcome.code == 0:
            different = (weights if sealed else differing)(box / "o", battery.stock / "whole/o")
        return unhurt(box, outcome) or (f"went on to another result: {different[0]}" if different else "")

    return Case(
        f"{name}, sealed again" if sealed else name,
        ["train", "resume=o/run"],
        make=make,
        codes=(0, 1, 2, 3) if name in LARGE else (0, 2, 3, 4),
        writes=("o", "o/*"),
        seconds=30,
        megabytes=400,
        check=right,
    )


def weights(one: Path, other: Path) -> list[str]:
    """Returns the names of weights and metrics in which two folders differ."""
    return [name for name in differing(one, other) if name.endswith((".safetensors", ".jsonl"))]


def unhurt(box: Path, outcome: Outcome) -> str:
    if (box / "hit").exists():
        return "code ran"
    return f"took {outcome.seconds:.0f} s" if outcome.seconds > 12 else ""
