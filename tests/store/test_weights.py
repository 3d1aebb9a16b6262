from __future__ import annotations

import io
import os
import pickle
import random
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny import copied, same
from torch import Tensor, nn

from kdrun.errors import InputError
from kdrun.models import loading
from kdrun.store import weights


def net(classes: int = 3, width: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, width), nn.BatchNorm1d(width), nn.Linear(width, classes))


def prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in state.items()}


FORMS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "module.": prefixed,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "best": 0.5},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
    "model": lambda state: {"model": state},
    "state_dict, module.": lambda state: {"epoch": 3, "state_dict": prefixed(state)},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
def test_a_state_dict_is_read_wherever_it_is_commonly_put(suffix: str, form: str, zipped: bool, tmp_path: Path) -> None:
    model, path = net(), tmp_path / f"t{suffix}"
    model[1].running_mean.fill_(7)
    torch.save(FORMS[form](model.state_dict()), path, _use_new_zipfile_serialization=zipped)
    filled = net()
    loading.fill(filled, loading.read(path), path, "teacher.checkpoint")
    assert same(copied(filled), copied(model))


@pytest.mark.parametrize("form", ["plain", "module."])
def test_safetensors_are_taken_too(form: str, tmp_path: Path) -> None:
    model, path = net(), tmp_path / "t.safetensors"
    safetensors.torch.save_file(FORMS[form](model.state_dict()), path)
    filled = net().double().float()
    loading.fill(filled, loading.read(path), path, "teacher.checkpoint")
    assert same(copied(filled), copied(model))


def test_what_is_written_is_read_and_has_the_digest_returned(tmp_path: Path) -> None:
    import hashlib

    model, path = net(), tmp_path / "t.safetensors"
    assert weights.write(path, model) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(loading.read(path), copied(model))


def test_weights_of_any_memory_format_are_written(tmp_path: Path) -> None:
    conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    weights.write(tmp_path / "c.safetensors", conv)
    assert same(loading.read(tmp_path / "c.safetensors"), copied(conv))


class Evil:
    """Unpickled without a guard, it makes a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def saved(content: Any, zipped: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def deflated(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return buffer.getvalue()


def refusal(path: Path) -> str:
    """What is said of the file at ``path``; also holds what is true of every refusal."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(InputError) as caught:
        loading.fill(net(), loading.read(path), path, "teacher.checkpoint")
    line = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in line
    assert "weights_only" not in line
    assert len(line) <= 300 + len(str(path))
    assert before is None or path.read_bytes() == before
    return line.replace(str(path), "FILE")


GOOD = saved(net().state_dict())
LEGACY = saved(net().state_dict(), zipped=False)
SAFE = safetensors.torch.save(net().state_dict())
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
HUGE = saved({"0.weight": torch.zeros(1).expand(10**12)})

DAMAGED = {
    "zero bytes": ("t.pt", b"", "FILE: is empty"),
    "zero bytes, safe": ("t.safetensors", b"", "FILE: is empty"),
    "half": ("t.pt", GOOD[: len(GOOD) // 2], "FILE: is damaged or cut short"),
    "half, safe": ("t.safetensors", SAFE[: len(SAFE) // 2], "FILE: is damaged or cut short"),
    "text": ("t.pth", b"hello world, how are you", "FILE: is not a checkpoint (it begins with b'hello world,')"),
    "html": ("t.pt", b"<!DOCTYPE html><html>", "FILE: is not a checkpoint (it begins with b'<!DOCTYPE ht')"),
    "html, safe": ("t.safetensors", b"<html>404</html>", "FILE: is not a checkpoint (it begins with b'<html>404</h')"),
    "pointer": ("t.pt", LFS, "FILE: is a Git LFS pointer; fetch the real file (git lfs pull)"),
    "pointer, safe": ("t.safetensors", LFS, "FILE: is a Git LFS pointer; fetch the real file (git lfs pull)"),
    "zeros": ("t.pt", bytes(5000), None),
    "other suffix": ("t.ckpt", GOOD, "FILE: is not a checkpoint (takes .safetensors, .pt, .pth, .th)"),
    "a list": ("t.pt", saved([1, 2]), "FILE: holds no state_dict (names and tensors)"),
    "numbers": ("t.pt", saved({"epoch": 3}), "FILE: holds no state_dict (names and tensors)"),
    "an empty zip": ("t.pt", b"PK\x05\x06" + bytes(18), None),
    "compressed": ("t.pt", deflated(GOOD), "FILE: is not a checkpoint (its parts are compressed)"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_an_unfit_file_is_named_in_one_line(case: str, tmp_path: Path) -> None:
    name, content, line = DAMAGED[case]
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert message == line if line else message.startswith("FILE: is ")


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "t.pt") == "FILE: no such file"
    assert refusal(tmp_path) == "FILE: no such file"


@pytest.mark.parametrize("whole", [GOOD, LEGACY, SAFE], ids=["zip", "legacy", "safetensors"])
def test_a_file_cut_short_anywhere_is_refused(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / ("t.safetensors" if whole is SAFE else "t.pt")
    for part in range(60):
        path.write_bytes(whole[: part * len(whole) // 60])
        refusal(path)


@pytest.mark.parametrize("whole", [GOOD, LEGACY, SAFE], ids=["zip", "legacy", "safetensors"])
def test_a_damaged_file_is_only_ever_refused_or_read(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / ("t.safetensors" if whole is SAFE else "t.pt")
    generator = random.Random(0)
    for _ in range(150):
        place = generator.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << generator.randrange(8)]) + whole[place + 1 :])
        try:
            loading.fill(net(), loading.read(path), path, "teacher.checkpoint")
        except InputError as error:
            assert "weights_only" not in str(error)
            assert "\n" not in str(error)


@pytest.mark.parametrize("forced", [False, True], ids=["", "guard switched off by the environment"])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "inside a state_dict"])
def test_code_in_a_file_is_refused_and_never_run(
    form: str, forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    evil = Evil(tmp_path / "canary")
    content = {
        "zip": lambda: saved(evil),
        "legacy": lambda: saved(evil, zipped=False),
        "pickle": lambda: pickle.dumps(evil),
        "inside a state_dict": lambda: saved({**net().state_dict(), "epoch": evil}),
    }[form]()
    (tmp_path / "t.pt").write_bytes(content)
    message = refusal(tmp_path / "t.pt")
    assert not (tmp_path / "canary").exists()
    if form in ("zip", "inside a state_dict"):
        assert message == "FILE: refused: it holds code (posix.system), not only weights"


def test_a_small_file_never_takes_much_memory(tmp_path: Path) -> None:
    bomb = deflated(saved({"0.weight": torch.zeros(25_000_000)}))
    assert len(bomb) < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (tmp_path / "deflated.pt").write_bytes(bomb)
    (tmp_path / "strided.pt").write_bytes(HUGE)
    assert refusal(tmp_path / "deflated.pt") == "FILE: is not a checkpoint (its parts are compressed)"
    assert refusal(tmp_path / "strided.pt").startswith("teacher.checkpoint: FILE was made for another model: ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_tensor_of_the_right_names_and_a_huge_shape_is_refused(tmp_path: Path) -> None:
    torch.save({**net().state_dict(), "0.weight": torch.zeros(1).expand(10**12)}, tmp_path / "t.pt")
    assert refusal(tmp_path / "t.pt").endswith("0.weight is (1000000000000,) there, (4, 5) in the model")


ANOTHER = {
    "other architecture": (
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).state_dict(),
        "5 missing (first: 1.bias)",
    ),
    "left over": ({**net().state_dict(), "3.bias": torch.ones(1)}, "1 left over (first: 3.bias)"),
    "both": (
        nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Identity(), nn.Linear(4, 3)).state_dict(),
        "2 missing (first: 2.bias), 2 left over (first: 3.bias)",
    ),
    "other classes": (net(classes=7).state_dict(), "2.bias is (7,) there, (3,) in the model"),
    "other width": (net(width=6).state_dict(), "0.bias is (6,) there, (4,) in the model"),
    "no names": ({}, "9 missing (first: 0.bias)"),
    "foreign names": ({"conv1.weight": torch.ones(1)}, "9 missing (first: 0.bias), 1 left over (first: conv1.weight)"),
}


@pytest.mark.parametrize("case", ANOTHER)
def test_weights_of_another_model_are_refused_with_the_fault(case: str, tmp_path: Path) -> None:
    state, fault = ANOTHER[case]
    path, model = tmp_path / "t.pt", net()
    torch.save(state, path)
    before = copied(model)
    with pytest.raises(InputError) as caught:
        loading.fill(model, loading.read(path), path, "teacher.checkpoint")
    assert str(caught.value) == f"teacher.checkpoint: {path} was made for another model: {fault}"
    assert same(copied(model), before)
