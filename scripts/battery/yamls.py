"""Hostile YAML in conf folders, of the working directory and of ``--config-dir``, and Python files beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from battery.cases import Battery, Case, no_check
from battery.edits import EVIL
from battery.folders import unhurt
from battery.runner import TINY

RUN = ["train", *TINY, "name=run", "dry_run=true"]
KD = (
    "# nice\n_target_: kdrun.methods.kd.KD\nce_weight: 0.5\nkd_weight: 0.5\ntemperature: 4.0\n"
    "t_squared: true\nform: forward\nreduction: batchmean\nhard_temperature: 1.0\n"
    "hard_targets: labels\n"
)
HEAD = "# @package _global_\n# nice\n"


def sweep(hydra: str) -> str:
    """An experiment that is a sweep, with more under ``hydra``."""
    return f"{HEAD}hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: '0'\n{hydra}"


EXPERIMENTS: dict[str, str] = {
    "callback of its own module": sweep("  callbacks:\n    x:\n      _target_: evil.X\n"),
    "callback builtins.open": sweep(
        "  callbacks:\n    x:\n      _target_: builtins.open\n      file: ../outside/precious.txt\n      mode: w\n"
    ),
    "callback pathlib.Path.touch": sweep("  callbacks:\n    x:\n      _target_: pathlib.Path.touch\n      self: hit\n"),
    "callback pip.main": sweep("  callbacks:\n    x:\n      _target_: pip.main\n      args: [install, x]\n"),
    "callback subprocess.Popen": sweep(
        "  callbacks:\n    x:\n      _target_: subprocess.Popen\n      args: [touch, hit]\n"
    ),
    "callback webbrowser.open": sweep(
        "  callbacks:\n    x:\n      _target_: webbrowser.open\n      url: http://127.0.0.1:1\n"
    ),
    "callback shutil.rmtree": sweep("  callbacks:\n    x:\n      _target_: shutil.rmtree\n      path: ../outside\n"),
    "callback multiprocessing.Process": sweep("  callbacks:\n    x:\n      _target_: multiprocessing.Process\n"),
    "job_logging that empties a file": sweep(
        "  job_logging:\n    version: 1\n    handlers:\n"
        "      f: {class: logging.FileHandler, filename: ../outside/precious.txt, mode: w}\n"
        "    root: {handlers: [f]}\n"
    ),
    "hydra_logging that empties a file": sweep(
        "  hydra_logging:\n    version: 1\n    handlers:\n"
        "      f: {class: logging.FileHandler, filename: ../outside/precious.txt, mode: w}\n"
        "    root: {handlers: [f]}\n"
    ),
    "job_logging with a call": sweep(
        "  job_logging:\n    version: 1\n    handlers:\n"
        "      f: {(): os.system, command: touch hit}\n    root: {handlers: [f]}\n"
    ),
    "launcher os.system": sweep("  launcher:\n    _target_: os.system\n    command: touch hit\n"),
    "launcher of its own module": sweep("  launcher:\n    _target_: evil.X\n"),
    "launcher with setup": sweep("  launcher:\n    setup: [touch hit]\n"),
    "launcher with srun_args": sweep("  launcher:\n    srun_args: [--bcast]\n"),
    "launcher with runtime_env": sweep("  launcher:\n    ray: {init: {runtime_env: {pip: [x]}}}\n"),
    "sweeper builtins.open": sweep("").replace("    params", "    _target_: builtins.open\n    params"),
    "sweep.dir outside": sweep("  sweep:\n    dir: ../outside/s\n"),
    "sweep.subdir outside": sweep("  sweep:\n    subdir: ../../../hy_sub\n"),
    "run.dir outside": f"{HEAD}hydra:\n  run:\n    dir: ../outside/r\n",
    "output_subdir outside": sweep("  output_subdir: ../../leak\n"),
    "job.chdir": sweep("  job:\n    chdir: true\n"),
    "job.env_set": sweep("  job:\n    env_set:\n      LD_PRELOAD: x.so\n"),
    "job.env_copy": sweep("  job:\n    env_copy: [KDRUN_BATTERY_TOKEN]\n"),
    "searchpath": f"{HEAD}hydra:\n  searchpath: ['file:///etc']\n",
    "searchpath in a sweep": sweep("  searchpath: ['pkg://os']\n"),
    "hydra/launcher by defaults": f"{HEAD}defaults:\n  - override /hydra/job_logging: default\n",
    "hydra.verbose": f"{HEAD}hydra:\n  verbose: true\n",
    "hydra a list": f"{HEAD}hydra: [1]\n",
    "hydra null": f"{HEAD}hydra:\n",
    "a sweep of 10^9": f"{HEAD}hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: range(0,1000000000)\n",
    "sweeper params a list": f"{HEAD}hydra:\n  mode: MULTIRUN\n  sweeper:\n    params: [1]\n",
    "sweeper params a secret": (
        f"{HEAD}hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      name: ${{oc.env:KDRUN_BATTERY_TOKEN}}\n"
    ),
    "sweeper params with hydra": (
        f"{HEAD}hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      hydra.sweep.dir: ../outside/x\n"
    ),
    "sweeper params with trust": (
        f"{HEAD}hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      trust: '[evil]'\n"
        "      method._target_: evil.X\n"
    ),
    "trust in the file": f"{HEAD}trust: [evil]\nmethod:\n  _target_: evil.X\n",
    "name of a secret": f"{HEAD}name: ${{oc.env:KDRUN_BATTERY_TOKEN}}\n",
    "out of a secret": f"{HEAD}out: ${{oc.env:KDRUN_BATTERY_TOKEN}}\n",
    "claims of a secret": f"{HEAD}claims:\n  student: ${{oc.env:KDRUN_BATTERY_TOKEN}}\n",
    "a secret by default": f"{HEAD}claims:\n  student: ${{oc.env:NOPE,${{oc.env:KDRUN_BATTERY_TOKEN}}}}\n",
    "resume in the file": f"{HEAD}resume: elsewhere\n",
    "out outside": f"{HEAD}dry_run: false\nout: ../outside/o\n",
    "name outside": f"{HEAD}name: ../../outside/o\n",
    "method cli.main": f"{HEAD}method:\n  _target_: kdrun.cli.main\n  argv: [train, resume=x]\n",
    "dataset download_url": (
        f"{HEAD}dataset:\n  _target_: torchvision.datasets.utils.download_url\n"
        "  url: file:///etc/hostname\n  root: ../outside\n"
    ),
    "package hydra": (
        "# @package hydra\n# nice\ncallbacks:\n  x:\n    _target_: builtins.open\n    file: hit\n    mode: w\n"
    ),
    "package hydra.callbacks": (
        "# @package hydra.callbacks\n# nice\nx:\n  _target_: builtins.open\n  file: hit\n  mode: w\n"
    ),
    "package _global_.hydra": (
        "# @package _global_.hydra.callbacks\n# nice\nx:\n  _target_: builtins.open\n  file: hit\n  mode: w\n"
    ),
    "an unknown package": "# @package nope\n# nice\na: 1\n",
    "an unknown key": f"{HEAD}nope: 1\n",
    "defaults loop": f"{HEAD}defaults:\n  - e\n",
    "defaults outside": f"{HEAD}defaults:\n  - ../../outside/x\n",
    "defaults of a file that is not there": f"{HEAD}defaults:\n  - nope\n",
    "defaults a number": f"{HEAD}defaults: 3\n",
    "defaults of an interpolation": f"{HEAD}defaults:\n  - ${{oc.env:KDRUN_BATTERY_TOKEN}}\n",
    "instantiation of _partial_": f"{HEAD}optimizer:\n  _target_: torch.optim.Adam\n  _partial_: true\n  _args_: [1]\n",
    "_convert_ and _recursive_": f"{HEAD}method:\n  _recursive_: true\n  _convert_: all\n",
}

METHODS: dict[str, str | bytes] = {
    "a number": "3\n",
    "a list": "[1]\n",
    "text": "hello\n",
    "empty": "",
    "null": "null\n",
    "a tab": KD + "a:\n\tb: 1\n",
    "latin-1": KD.encode() + b"# \xe9\nx: \xe9\n",
    "UTF-16": KD.encode("utf-16"),
    "NUL": KD.encode() + b"\0",
    "a control character": KD.encode() + b"x: '\x1b]0;hit\x07'\n",
    "a key twice": KD + "temperature: 3.0\n",
    "a merge key": "a: &a {b: 1}\n<<: *a\n" + KD,
    "anchored in itself": KD + "x: &a [*a]\n",
    "aliases": "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 6))
    + KD,
    "aliases of dictionaries": "a0: &a0 {k: v}\n"
    + "".join(f"a{n}: &a{n} {{{','.join(f'k{m}: *a{n - 1}' for m in range(9))}}}\n" for n in range(1, 6))
    + KD,
    "aliases 20 times doubled": "a0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 26))
    + KD,
    "3,000 deep": KD + "x: " + "[" * 3000 + "]" * 3000 + "\n",
    "3,000 deep in dictionaries": KD + "x: " + "{a: " * 3000 + "1" + "}" * 3000 + "\n",
    "900 deep": KD + "x: " + "[" * 900 + "]" * 900 + "\n",
    "5 MB": KD + "x: '" + "y" * 5_000_000 + "'\n",
    "100,000 keys": KD + "".join(f"k{n}: 1\n" for n in range(100_000)),
    "!!python/object": "x: !!python/object/apply:os.system ['touch hit']\n" + KD,
    "!!python/name": "x: !!python/name:os.system\n" + KD,
    "!!python/module": "x: !!python/module:evil\n" + KD,
    "!!binary": "x: !!binary aGk=\n" + KD,
    "!!timestamp": "temperature: 2020-01-01\n" + KD.replace("temperature: 4.0\n", ""),
    "!!set": "x: !!set {a, b}\n" + KD,
    "two documents": KD + "---\n" + KD,
    "a hydra block": KD + "hydra:\n  run:\n    dir: ../outside/r\n",
    "a hydra block with a callback": KD
    + "hydra:\n  callbacks:\n    x: {_target_: builtins.open, file: hit, mode: w}\n",
    "trust": KD + "trust: [evil]\n",
    "defaults loop": "defaults:\n  - m\n" + KD,
    "defaults in two files in a loop": "defaults:\n  - n\n" + KD,
    "defaults by package": "defaults:\n  - /hydra/job_logging@x: default\n" + KD,
    "_target_ a number": "_target_: 3\n",
    "_target_ a list": "_target_: [os.system]\n",
    "_target_ a dictionary": "_target_: {_target_: os.system}\n",
    "_target_ os.system": "_target_: os.system\ncommand: touch hit\n",
    "_target_ its own module": "_target_: evil.X\n",
    "_target_ empty": "_target_: ''\n",
    "_target_ an interpolation": "_target_: ${oc.env:KDRUN_BATTERY_TOKEN}\n",
    "_target_ a private name": "_target_: kdrun.methods.kd.__builtins__\n",
    "_target_ an abstract class": "_target_: kdrun.methods.base.Method\n",
    "_target_ a model": "_target_: kdrun.models.mlp.MLP\nhidden: [3]\n",
    "_target_ an optimizer": "_target_: torch.optim.Adam\n",
    "_target_ nested": KD.replace("temperature: 4.0", "temperature: {_target_: os.getpid}"),
    "a number with a space": KD.replace("4.0", "'4 0'"),
    "an infinite number": KD.replace("4.0", ".inf"),
    "not a number": KD.replace("4.0", ".nan"),
    "octal and sexagesimal": KD.replace("4.0", "1:30"),
    "an interpolation that is not there": KD.replace("4.0", "${nope}"),
    "an interpolation to itself": KD.replace("4.0", "${method.temperature}"),
    "a resolver that is not there": KD.replace("4.0", "${nope:1}"),
    "oc.create of code": KD.replace("4.0", "${oc.create:'os'}"),
    "a secret": KD.replace("4.0", "${oc.env:KDRUN_BATTERY_TOKEN}"),
    "a secret in a dictionary": KD + "x:\n  y: ${oc.env:HOME}\n",
}

TAKES = (
    "octal and sexagesimal",
    "out outside",
    "two documents",
    "hydra null",
    "defaults by package",
    "!!binary",
    "UTF-16",
    "a merge key",
    "hydra.verbose",
    "_convert_ and _recursive_",
)
"""May also be taken, if nothing comes of it."""


def cases(battery: Battery) -> Iterator[Case]:
    for name, content in list(EXPERIMENTS.items())[:: battery.some(1, 7)]:
        words = [word for word in RUN if not (name.startswith(("name", "out")) and word.startswith(("name=", "out=")))]
        yield case(f"experiment: {name}", "experiment/e.yaml", content, [*words, "experiment=e"], name)
        if "MULTIRUN" in content:
            words = [word for word in RUN if word != "dry_run=true"]
            yield case(
                f"experiment, training: {name}",
                "experiment/e.yaml",
                content,
                [*words, "epochs=1", "experiment=e"],
                name,
            )
    for number, (name, content) in enumerate(list(METHODS.items())[:: battery.some(1, 7)]):
        yield case(f"method: {name}", "method/m.yaml", content, [*RUN, "method=m"], name, own=number % 2 == 0)
    for name in ("a number", "aliases", "3,000 deep", "latin-1", "!!python/object", "a key twice"):
        yield case(f"ls: {name}", "method/m.yaml", METHODS[name], ["ls", "method"], name, codes=(0, 2))
        yield case(f"-sc: {name}", "method/m.yaml", METHODS[name], ["-sc", "query=bash"], name, codes=(0, 2))
        yield case(f"train --help: {name}", "method/m.yaml", METHODS[name], ["train", "--help"], name, codes=(0, 2))
    yield from strange()


def case(
    name: str,
    place: str,
    content: str | bytes,
    argv: list[str],
    what: str,
    own: bool = True,
    codes: tuple[int, ...] = (2,),
) -> Case:
    """A YAML file in conf/ of the working directory, or in a folder named by ``--config-dir``."""

    def make(box: Path) -> None:
        path = box / ("conf" if own else "theirs") / place
        path.parent.mkdir(parents=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        (path.parent / "n.yaml").write_text("defaults:\n  - m\n" + KD)
        (box / "evil.py").write_text(EVIL)

    words = argv if own else [*argv, "--config-dir", "theirs"]
    return Case(
        name, words, make=make, codes=(0, *codes) if what in TAKES else codes, check=unhurt, seconds=30, megabytes=300
    )


def written(path: Path) -> None:
    path.write_text("x")


def strange() -> Iterator[Case]:
    """Files that are no plain files."""

    def place(put: Callable[[Path], object]) -> Callable[[Path], object]:
        def make(box: Path) -> None:
            (box / "conf/method").mkdir(parents=True)
            put(box / "conf/method/m.yaml")

        return make

    strange_files: dict[str, Callable[[Path], object]] = {
        "a folder": lambda path: path.mkdir(),
        "a fifo": lambda path: os.mkfifo(path),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "a link to nowhere": lambda path: path.symlink_to("nowhere"),
        "a loop of links": lambda path: path.symlink_to(path.name),
        "a link to /etc/passwd": lambda path: path.symlink_to("/etc/passwd"),
        "8 GB of nothing": lambda path: (path.touch(), os.truncate(path, 8 << 30)),
    }
    for name, put in strange_files.items():
        yield Case(f"method: {name}", [*RUN, "method=m"], make=place(put), names=("m",), seconds=20)
        yield Case(f"ls: {name}", ["ls", "method"], make=place(put), codes=(0, 2), seconds=20)
    strange_names = (
        "a b.yaml",
        "[x].yaml",
        "-x.yaml",
        "${oc.env:HOME}.yaml",
        "x\ny.yaml",
        "\x1b]0;hit\x07.yaml",
        "x\udcff.yaml",
        ".yaml",
        "x.yml",
    )

    def many(box: Path) -> None:
        (box / "conf/method").mkdir(parents=True)
        for name in strange_names:
            Path(os.fsdecode(os.fsencode(str(box / "conf/method" / name)))).write_text(KD)

    for words in (["ls", "method"], ["train", "--help"], [*RUN, "method=nope"]):
        yield Case(f"conf with strange names: {' '.join(words)[:20]}", words, make=many, codes=(0, 2), check=no_check)
    yield Case(
        "conf/train.yaml of its own",
        RUN,
        make=lambda box: ((box / "conf").mkdir(), (box / "conf/train.yaml").write_text("trust: [evil]\n"))[0],
        codes=(0, 2),
    )
    yield Case("conf a file", RUN, make=lambda box: written(box / "conf"), codes=(0,))
    yield Case("conf a loop of links", RUN, make=lambda box: (box / "conf").symlink_to("conf"), codes=(0, 2))
    yield Case(
        "--config-dir a file",
        [*RUN, "--config-dir", "x"],
        make=lambda box: written(box / "x"),
    )
    yield Case("--config-dir /proc", [*RUN, "--config-dir", "/proc"], codes=(0, 2))
