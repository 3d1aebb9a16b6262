"""Words of the command line that are refused: foreign targets, Hydra's own section, names, flags, sweeps, secrets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from battery.cases import Battery, Case
from battery.runner import TINY, Outcome

DRY = ["train", *TINY, "name=run", "dry_run=true"]

TARGETS = (
    "os.system",
    "subprocess.run",
    "builtins.open",
    "builtins.eval",
    "pathlib.Path.touch",
    "shutil.rmtree",
    "runpy.run_path",
    "importlib.import_module",
    "ctypes.CDLL",
    "webbrowser.open",
    "pip.main",
    "torch.load",
    "torch.save",
    "torch.hub.load",
    "torch.optim.swa_utils.update_bn",
    "torch.optim.lr_scheduler.os.system",
    "kdrun.cli.main",
    "kdrun.cli.os.system",
    "kdrun.run.run.run",
    "kdrun.store.files.write",
    "kdrun.store.files.tidy",
    "kdrun.data.download.shutil.rmtree",
    "kdrun.models.mlp",
    "torchvision.datasets.utils.download_url",
    "torchvision.datasets.utils.extract_archive",
    "torchvision.datasets.utils.download_and_extract_archive",
    "torchvision.io.write_file",
    "torchvision.models.get_model",
    "torchvision.datasets.MNIST",
    "hydra.utils.call",
    "collections.OrderedDict",
    "int",
    "..evil",
    "kdrun..models",
    "kdrun.methods.kd.KD.__init__",
)
PLACES = ("method", "student", "teacher", "dataset", "optimizer", "schedule", "teacher.recipe.optimizer")

HYDRA = (
    "+hydra.foo=1",
    "hydra.run.dir=../x",
    "hydra.run.dir=/tmp/x",
    "hydra.sweep.dir=../x",
    "hydra.sweep.subdir=../../../x",
    "hydra.output_subdir=../x",
    "hydra.searchpath=[file:///etc]",
    "hydra.job.chdir=true",
    "+hydra.job.env_set.LD_PRELOAD=x.so",
    "hydra.job.env_set={PATH: /x}",
    "hydra.job.env_copy=[KDRUN_BATTERY_TOKEN]",
    "+hydra.job.name=x",
    "hydra.verbose=true",
    "hydra.callbacks={x: {_target_: builtins.open, file: hit, mode: w}}",
    "+hydra.callbacks.x._target_=builtins.open +hydra.callbacks.x.file=hit +hydra.callbacks.x.mode=w",
    "+hydra.callbacks.x._target_=hydra.experimental.callbacks.LogJobReturnCallback",
    "hydra.launcher._target_=os.system",
    "hydra.launcher._target_=builtins.open",
    "+hydra.launcher.setup=[touch hit]",
    "hydra.sweeper._target_=builtins.open",
    "hydra.job_logging={version: 1, handlers: {f: {class: logging.FileHandler, filename: hit, mode: w}}}",
    "+hydra.job_logging.handlers.f.class=logging.FileHandler +hydra.job_logging.handlers.f.filename=hit",
    "hydra.hydra_logging={version: 1, handlers: {f: {class: logging.FileHandler, filename: hit, mode: w}}}",
    "hydra/job_logging=colorlog",
    "hydra/launcher=nope",
    "hydra/sweeper=nope",
    "hydra/help=nope",
    "hydra.help.template=x",
    "hydra.runtime.cwd=/x",
    "hydra.runtime.output_dir=/x",
    "hydra.overrides.task=[x]",
    "~hydra",
    "hydra=null",
    "+hydra/launcher@hydra.x=basic",
)

NAMES = (
    "../x",
    "a/b",
    "/abs",
    ".hidden",
    "-dash",
    "a..b",
    "a" * 101,
    "' '",
    "'  a  '",
    "a\\nb",
    "'a\nb'",
    "'\x1b]0;x\x07'",
    "[/red]",
    "${oc.env:KDRUN_BATTERY_TOKEN}",
    "${oc.env:HOME}",
    "${oc.decode:${oc.env:HOME}}",
    "${oc.select:out}",
    "${nope}",
    "${now:%Y}",
    "x${hydra:runtime.cwd}",
    "=3",
    "a=b=",
    "'x",
    "[a]",
    "{a: 1}",
    "null,x",
    "models",
    "con\u202ename",
    "a\u0000b",
    "..",
)

FLAGS = (
    ["--experimental-rerun=x.pickle"],
    ["--cfg", "nope"],
    ["--cfg", "job", "--package", "nope"],
    ["--package", "nope"],
    ["--info", "nope"],
    ["--config-dir", "/nope"],
    ["--config-name", "other"],
    ["--config-path", "/etc"],
    ["--config-dir"],
    ["--run"],
    ["-x"],
    ["nope"],
    [""],
    ["="],
    ["+"],
    ["~"],
    ["a b"],
    ["epochs"],
    ["epochs="],
    ["epochs=3.7"],
    ["epochs=true"],
    ["epochs=1,2"],
    ["epochs=[1"],
    ["epochs={"],
    ["epochs='"],
    ["epochs=choice(1,2)"],
    ["~method"],
    ["~seed"],
    ["method=[kd,gan]"],
    ["method=nope"],
    ["method="],
    ["method@x=kd"],
    ["experiment=_report1"],
    ["experiment=../experiment/kd_mnist"],
    ["student=../dataset/mnist"],
    ["method=../train"],
    ["method=../method/kd"],
    ["method=./kd"],
    ["method=/method/kd"],
    ["dataset=/etc/passwd"],
    ["model=mlp_16"],
    ["recipe=../optimizer/adam"],
    ["optimizer@student=adam"],
    ["resume="],
    ["resume=nope"],
    ["resume=a,b"],
    ["resume=[a]"],
    ["resume=null", "resume=3"],
    ["resume=."],
    ["resume=/"],
    ["resume=/dev/null"],
    ["resume=run\u0000x"],
    ["out="],
    ["out=a\u0000b"],
    ["out=${oc.env:KDRUN_BATTERY_TOKEN}"],
    ["out=x/${oc.env:USER}"],
    ["out=${oc.env:KDRUN_BATTERY_TOKEN,x}"],
    ["dataset=folder", "dataset.root=${oc.env:KDRUN_BATTERY_TOKEN}"],
    ["teacher.checkpoint=${oc.env:KDRUN_BATTERY_TOKEN}"],
    ["method.temperature=${oc.env:HOME}"],
    ["seed=18446744073709551616"],
    ["epochs=" + "9" * 5000],
    ["method.temperature=" + "1" * 100000],
    ["x" * 100000 + "=1"],
    ["a" + ".a" * 5000 + "=1"],
    ["claims=" + "[" * 400 + "]" * 400],
    ["claims=" + "{a: " * 400 + "1" + "}" * 400],
)

SWEEPS = (
    ["seed=range(0,10,0)"],
    ["seed=range(0,1000000000)"],
    ["seed=range(3,0)"],
    ["seed=0,0"],
    ["seed=0,1", "seed=2,3"],
    ["seed=interval(0,1)"],
    ["method.temperature=4,0"],
    ["method.temperature=4,nan"],
    ["method=kd,nope"],
    ["method=kd,gan", "method.discriminator_width=0,8"],
    ["dry_run=true,false"],
    ["resume=a,b"],
    ["out=a,b"],
    ["name=a,b"],
    ["trust=[os],[sys]"],
    ["seed=glob(nope*)"],
    ["seed=shuffle(1,2"],
    ["seed=sort(range(0,1000000000))"],
    ["method=glob(*)", "method.temperature=1"],
    ["hydra.mode=RUN"],
)


def cases(battery: Battery) -> Iterator[Case]:
    pairs = [(place, target) for place in PLACES for target in TARGETS]
    for place, target in battery.chance.sample(pairs, battery.some(120, 6)):
        words = [f"{place}._target_={target}", f"++{place}.url=file:///etc/hostname", f"++{place}.root=o"]
        yield Case(
            f"{place}._target_={target}", [*DRY, *words[: battery.chance.choice((1, 1, 3))]], names=(place, target)
        )
    for word in HYDRA[:: battery.some(1, 9)]:
        yield Case(
            word, [*DRY, *word.split(" ")] if word.startswith("+") else [*DRY, word], names=("hydra", "command line")
        )
        yield Case(
            f"-m {word}", ["train", "-m", *DRY[1:], "seed=0,1", *(word.split(" ") if word.startswith("+") else [word])]
        )
    for name in NAMES[:: battery.some(1, 8)]:
        yield Case(
            f"name={name[:40]!r}", [*[word for word in DRY if word != "name=run"], f"name={name}"], names=("name",)
        )
    for words in FLAGS[:: battery.some(1, 9)]:
        yield Case(" ".join(words)[:60], [*DRY, *words], codes=(2, 3), check=unhurried)
    for words in SWEEPS[:: battery.some(1, 6)]:
        yield Case(
            f"-m {' '.join(words)}",
            ["train", "-m", *[word for word in DRY if word != "name=run"], *words],
            check=unhurried,
        )
    yield from others()


def unhurried(box: Path, outcome: Outcome) -> str:
    return f"took {outcome.seconds:.0f} s" if outcome.seconds > 10 else ""


def others() -> Iterator[Case]:
    """What is no single word: commands beside train, and what must not import the working directory."""

    def trap(box: Path) -> None:
        for name in ("hydra", "omegaconf", "yaml", "torch", "json", "numpy", "rich", "logging", "kdrun_extra"):
            (box / f"{name}.py").write_text("open('hit', 'w').close()\nraise SystemExit(9)\n")

    for words in (
        ["ls", "method"],
        ["ls"],
        ["--help"],
        ["--version"],
        ["-sc", "query=bash"],
        ["train", "--help"],
        ["report"],
    ):
        codes = (2,) if words == ["report"] else (0,)
        yield Case(f"modules of the working directory: {' '.join(words)}", words, make=trap, codes=codes, patch=forget)
    yield Case("modules of the working directory: train", DRY, make=trap, codes=(0,), patch=forget)
    yield Case("ls nope", ["ls", "nope"], names=("nope",))
    yield Case("ls ../train", ["ls", "../train"])
    yield Case("ls, too many words", ["ls", "method", "student"], codes=(0, 2))
    yield Case("report nope", ["report", "nope"], codes=(3,), names=("nope",))
    yield Case("report --out without value", ["report", "x", "--out"])
    yield Case("report --nope", ["report", "--nope"])
    yield Case(
        "trust=[os] method._target_=os.system",
        [*DRY, "trust=[os,posix]", "method._target_=os.system"],
        names=("method",),
    )
    yield Case("trust=[nope]", [*DRY, "trust=[nope]", "method._target_=nope.X"], names=("nope",))


def forget() -> None:
    """Makes the next imports of these modules real ones, as in a process of its own."""
    import sys

    for name in ("hydra", "omegaconf", "yaml", "rich", "kdrun_extra"):
        for module in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
            del sys.modules[module]
    for module in [each for each in sys.modules if each.startswith("kdrun.") and each != "kdrun.errors"]:
        del sys.modules[module]
    sys.path[:] = [each for each in sys.path if each not in ("", ".")]
