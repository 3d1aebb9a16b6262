"""Hostile and unfit files as ``teacher.checkpoint``: refused before anything is trained, or taken and right."""

from __future__ import annotations

import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from battery import weights
from battery.cases import Battery, Case, untrained
from battery.runner import TINY, Outcome
from battery.stock import teacher
from battery.weights import Write, changed, code, each, header, later, one_value, saved, sized, sparse

WORDS = ["train", *TINY, "method=kd", "name=run", "baseline=false"]
EVERYTHING = ("o", "o/*")


def text(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def tensors(**options: torch.Tensor) -> Write:
    return lambda path: save_file(options or teacher(), path)


def quantized() -> torch.Tensor:
    warnings.simplefilter("ignore")  # such tensors are on their way out of torch
    return torch.quantize_per_tensor(torch.zeros(32, 64), 0.1, 0, torch.qint8)


CODE = {
    "os.system": code("os", "system", "touch hit"),
    "posix.system": code("posix", "system", "touch hit"),
    "subprocess.call": code("subprocess", "call", ["touch", "hit"]),
    "builtins.eval": code("builtins", "eval", "open('hit','w')"),
    "__builtin__.exec": code("__builtin__", "exec", "open('hit','w')"),
    "builtins.getattr": code("builtins", "getattr", "x", "join"),
    "builtins.open": code("builtins", "open", "hit", "w"),
    "shutil.rmtree": code("shutil", "rmtree", "../outside"),
    "runpy.run_path": code("runpy", "run_path", "x.py"),
    "torch.hub.load": code("torch.hub", "load", "a/b", "c"),
    "torch.load": code("torch", "load", "x.pt"),
    "torch.jit.load": code("torch.jit", "load", "x.pt"),
    "numpy.fromfile": code("numpy", "fromfile", "/etc/passwd"),
    "functools.partial": code("functools", "partial", "x"),
    "kdrun.cli.main": code("kdrun.cli", "main", ["train"]),
}

BOMBS = {
    "bytearray(2e9)": code("builtins", "bytearray", 2_000_000_000),
    "bytearray of 2e9 in Python 2's name": code("__builtin__", "bytearray", 2_000_000_000),
    "bytearray(2e9) in the state_dict": saved({**teacher(), "x": weights.Calls(bytearray, 2_000_000_000)}),
    "20 bytearrays of 1e8": saved([weights.Calls(bytearray, 100_000_000 + number) for number in range(20)]),
    "a set of 1e8 numbers": code("builtins", "set", range(3)),
    "compressed": weights.compressed,
    "300 entries that share one member": weights.sharing,
    "a tensor of stride 0 and 10^12 numbers": saved({**teacher(), "fc.weight": torch.zeros(1).expand(10**6, 10**6)}),
    "a tensor of stride 0 and 10^9 numbers": saved({**teacher(), "fc.weight": torch.zeros(1).expand(10**5, 10**4)}),
    "20 GB of nothing, .pt": sparse(20 << 30),
    "one row in 3,000 names": later(lambda: weights.many_names((100, 100_000), 3000)),
    "100,000 names": later(lambda: weights.many_names((1,), 100_000)),
    "lists in lists, 100,000 deep": lambda path: weights.zipped(path, weights.nested_pickle(100_000)),
    "dictionaries in dictionaries, 900 deep": saved(weights.deep(120)),
    "itself in itself": saved(weights.cyclic()),
    "a name of 10,000,000 letters": later(lambda: {"x" * 10_000_000: torch.zeros(1)}),
}

UNFIT = {
    "NaN": saved(one_value(float("nan"))),
    "inf": saved(one_value(float("inf"))),
    "-inf in a bias": saved(changed(fc_bias=torch.full((10,), float("-inf")))),
    "all NaN": saved(each(lambda value: value * float("nan"))),
    "too large for float32": saved(each(lambda value: value.double() * 1e300)),
    "int8": saved(each(lambda value: value.to(torch.int8))),
    "int64": saved(each(lambda value: value.to(torch.int64))),
    "bool": saved(each(lambda value: value > 0)),
    "uint8": saved(each(lambda value: value.to(torch.uint8))),
    "complex64": saved(each(lambda value: value.to(torch.complex64))),
    "sparse": saved(each(lambda value: value.to_sparse())),
    "one sparse": saved(changed(fc_weight=torch.zeros(10, 32).to_sparse())),
    "meta": saved(each(lambda value: value.to("meta"))),
    "quantized": later(lambda: changed(hidden1_1_weight=quantized())),
    "other names": saved({f"encoder.{name}": value for name, value in teacher().items()}),
    "a name missing": saved({name: value for name, value in teacher().items() if name != "fc.bias"}),
    "a name left over": saved({**teacher(), "more": torch.zeros(1)}),
    "another shape": saved(changed(fc_weight=torch.zeros(10, 16))),
    "one class": saved(changed(fc_weight=torch.zeros(1, 32), fc_bias=torch.zeros(1))),
    "no dimension": saved(changed(fc_weight=torch.zeros(()))),
    "a list": saved([torch.zeros(1)]),
    "a tensor": saved(torch.zeros(3)),
    "a number": saved(3),
    "None": saved(None),
    "nothing in it": saved({}),
    "numbers as names": saved(dict(enumerate(teacher().values()))),
    "lists as weights": saved(each(lambda value: value.tolist())),
    "text as weights": saved(dict.fromkeys(teacher(), "x")),
    "state_dict in state_dict in state_dict": saved({"state_dict": {"model": {"state_dict": 3}}}),
    "a whole module": saved(torch.nn.Linear(2, 2)),
    "an optimizer's state": saved({"state": {}, "param_groups": []}),
    "control characters in a name": saved({"\x1b]0;hit\x07\n\nkdrun: fine": torch.zeros(1)}),
    "markup in a name": saved({"[/red][bold]": torch.zeros(1)}),
    "module. twice": saved({f"module.module.{name}": value for name, value in teacher().items()}),
}

FILES = {
    "empty": text(b""),
    "one byte": text(b"\x80"),
    "HTML": text(b"<!DOCTYPE html><html>404</html>"),
    "a Git LFS pointer": text(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
    "text": text(b"hello\n" * 100),
    "zeros": text(bytes(100_000)),
    "PK and no more": text(b"PK\x03\x04"),
    "PK and noise": text(b"PK\x03\x04" + bytes(range(256)) * 40),
    "an empty zip": text(b"PK\x05\x06" + bytes(18)),
    "a gzip": text(b"\x1f\x8b\x08" + bytes(50)),
    "a plain pickle": text(pickle.dumps({"a": 1})),
    "a pickle of protocol 5": text(pickle.dumps({"a": [1] * 100}, 5)),
    "a pickle that ends early": text(b"\x80\x02}q\x00("),
    "a pickle without end": text(b"\x80\x02" + b"}" * 10_000),
    "HDF5": text(b"\x89HDF\r\n\x1a\n" + bytes(500)),
    "a zip without a pickle": lambda path: weights.zipped(path, b""),
    "a pickle of nothing in a zip": lambda path: weights.zipped(path, b"."),
    "a pickle of memo that is not there": lambda path: weights.zipped(path, b"\x80\x02h\x63."),
    "a storage that is not there": lambda path: weights.zipped(path, weights.parts(teacher())["data.pkl"]),
    "a folder": lambda path: path.mkdir(),
    "a fifo": lambda path: os.mkfifo(path),
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to /dev/random": lambda path: path.symlink_to("/dev/random"),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
    "a loop of links": lambda path: path.symlink_to(path.name),
    "a socket": lambda path: os.mknod(path, 0o140666),
}

HEADERS = {
    "a header of 2^63 bytes": header(b"{}", 1 << 63),
    "a header longer than the file": header(b"{}", 1000),
    "a header of 100 MB": header(b'{"__metadata__":{"a":"' + b"x" * 100_000_000 + b'"}}'),
    "a header of nothing": header(b""),
    "a header that is a list": header(b"[]"),
    "a header that is no JSON": header(b"{'a': 1}"),
    "a header 100,000 deep": header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a header with names twice": header(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        body=bytes(4),
    ),
    "a shape of 2^62": sized("F32", f"[{1 << 62},4]", 0, 16, 16),
    "a negative shape": sized("F32", "[-1,4]", 0, 16, 16),
    "a shape of 10^12 in 16 bytes": sized("F32", "[1000000000000]", 0, 16, 16),
    "offsets beyond the file": sized("F32", "[4000000000]", 0, 16_000_000_000),
    "offsets backward": sized("F32", "[4]", 16, 0, 16),
    "an unknown type": sized("F99", "[4]", 0, 16, 16),
    "a shape that is text": sized("F32", '"four"', 0, 16, 16),
    "another model": sized("F32", "[4]", 0, 16, 16),
    "NaN": lambda path: save_file(one_value(float("nan")), path),
    "int8": lambda path: save_file(each(lambda value: value.to(torch.int8)), path),
    "bool": lambda path: save_file(each(lambda value: value > 0), path),
    "20 GB of nothing": lambda path: (save_file(teacher(), path), os.truncate(path, 20 << 30)),
    "100,000 names": lambda path: save_file({f"n{number}": torch.zeros(1) for number in range(100_000)}, path),
    "a pickle": text(pickle.dumps({"a": 1})),
    "a torch file": saved(teacher()),
}

TAKEN = {
    "float64": saved(each(lambda value: value.double())),
    "half": saved(each(lambda value: value.half())),
    "bfloat16": saved(each(lambda value: value.bfloat16())),
    "before zip files": saved(teacher(), _use_new_zipfile_serialization=False),
    "module. before the names": saved({f"module.{name}": value for name, value in teacher().items()}),
    "in state_dict": saved({"epoch": 3, "state_dict": teacher()}),
    "parameters": saved(each(torch.nn.Parameter)),
    "an OrderedDict": saved(OrderedDict(teacher())),
    "not contiguous": saved(each(lambda value: value.t().contiguous().t() if value.ndim == 2 else value)),
    "views of one storage": saved(changed(fc_bias=torch.zeros(1000)[5:15])),
}


def cases(battery: Battery) -> Iterator[Case]:
    refused = {
        "pt": {**{f"calls {name}": write for name, write in CODE.items()}, **BOMBS, **UNFIT, **FILES},
        "safetensors": HEADERS,
    }
    chosen = [(suffix, name, write) for suffix, group in refused.items() for name, write in group.items()]
    for suffix, name, write in chosen[:: battery.some(1, 8)]:
        yield case(f"{suffix}: {name}", suffix, write, (3,))
    for name, write in list(TAKEN.items())[:: battery.some(1, 4)]:
        yield case(f"pt: {name} is taken", "pt", write, (0,))
    for name in ("", "nope.pt", "x", ".", "/", "x.py", "../outside/precious.txt", "a\x00b.pt", "x" * 5000 + ".pt"):
        yield Case(
            f"teacher.checkpoint={name[:30]!r}",
            [*WORDS, f"teacher.checkpoint={name}"],
            codes=(2, 3),
            names=("checkpoint", name or "checkpoint"),
            writes=EVERYTHING,
            check=untrained,
        )


def case(name: str, suffix: str, write: Write, codes: tuple[int, ...]) -> Case:
    words = [*WORDS, f"teacher.checkpoint=x.{suffix}"]
    taken = 0 in codes

    def make(box: Path) -> None:
        write(box / f"x.{suffix}")

    return Case(
        name,
        words,
        make=make,
        codes=codes,
        names=(f"x.{suffix}", "checkpoint"),
        writes=EVERYTHING,
        seconds=30,
        megabytes=400 if taken else 250,
        check=finite if taken else untrained,
    )


def finite(box: Path, outcome: Outcome) -> str:
    return "NaN in summary.json" if "NaN" in (box / "o/run/summary.json").read_text() else ""
