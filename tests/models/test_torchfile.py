"""A weight file that runs code, takes more memory than it has bytes, or holds no finite floats is refused."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from data_makers import within
from torch import Tensor, nn

from kdrun.errors import InputError
from kdrun.models import loading, torchfile
from kdrun.models.zoo import from_torchvision
from kdrun.run.assembly import checkpoint
from kdrun.store import files

MEGABYTES = 50
"""The memory that refusing a small file may take."""


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))


def refusal(path: Path) -> str:
    """What is said of the file at ``path``, which takes little memory to say."""
    with within(MEGABYTES), pytest.raises(InputError) as caught:
        loading.fill(net(), loading.read(path), path, "teacher.checkpoint")
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


class Call:
    """Is pickled as a call of ``target``."""

    def __init__(self, target: Callable[..., Any], *operands: Any) -> None:
        self.call = target, operands

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


PAIRS = [(number, number) for number in range(9)]

HOSTILE = {
    "a bytearray": lambda: Call(bytearray, 2_000_000_000),
    "a bytearray of a bytearray": lambda: Call(bytearray, bytearray(9)),
    "a set": lambda: Call(set, PAIRS),
    "a tensor by its size": lambda: Call(torch.FloatTensor, 10**9),
    "copies of one list": lambda: [Call(OrderedDict, PAIRS) for _ in range(3)],
    "copies of one size": lambda: [PAIRS, Call(torch.Size, PAIRS)],
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", HOSTILE)
def test_a_pickle_that_asks_for_memory_is_refused(case: str, zipped: bool, tmp_path: Path) -> None:
    content = {**net().state_dict(), "more": HOSTILE[case]()}
    torch.save(content, tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
    assert refusal(tmp_path / "t.pt").startswith("FILE: refused: it ")


@pytest.mark.parametrize("pickled", [b"\x80\x02]q\x00h\x00)R.", b"\x80\x02N)R."], ids=["copied", "nothing"])
def test_a_call_of_what_has_no_name_is_refused_in_words(pickled: bytes) -> None:
    with pytest.raises(
        InputError, match=r"^FILE: refused: it calls what it does not name in a way that weights do not"
    ):
        torchfile.check(io.BytesIO(pickled), "FILE")


def test_an_odd_escape_in_a_text_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torchfile.check(io.BytesIO(5 * b"\x80\x02S'\\q'\n."), "FILE")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_whole_training_checkpoint_is_read(zipped: bool, tmp_path: Path) -> None:
    model = net()
    adam = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 5)).sum().backward()
    adam.step()
    plain = {"epoch": 3, "seed": 2**70, "size": torch.Size([1, 2]), "rng": torch.get_rng_state(), "type": torch.float32}
    content = {"state_dict": model.state_dict(), "optimizer": adam.state_dict(), "tied": [model[0].weight] * 2, **plain}
    torch.save(content, tmp_path / "t.pt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(loading.read(tmp_path / "t.pt")["0.weight"], model[0].weight)


def repacked(data: bytes, comment: bytes = b"", **extra: bytes) -> bytes:
    """The zip ``data`` with more members, and a comment."""
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        archive.comment = comment
        for name, content in extra.items():
            archive.writestr(f"{archive.namelist()[0].partition('/')[0]}/{name}", content)
    return buffer.getvalue()


def sharing(data: bytes, copies: int) -> bytes:
    """The zip ``data`` with ``copies`` more entries, all of which share the largest member."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for number in range(copies):
            entry = zipfile.ZipInfo(f"{largest.filename}{number}")
            entry.header_offset, entry.CRC = largest.header_offset, largest.CRC
            entry.file_size = entry.compress_size = largest.file_size
            archive.filelist.append(entry)
        archive._didModify = True  # type: ignore[attr-defined]
    return buffer.getvalue()


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_entries_that_share_one_stored_member_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.pt").write_bytes(sharing(saved({"0.weight": torch.zeros(250_000)}), 400))
    assert refusal(tmp_path / "t.pt") == "FILE: is not a checkpoint (its parts are larger than the file)"


@pytest.mark.parametrize(
    ("comment", "extra"), [(b"PK\5\6", {}), (b"", {"DATA.PKL": b"."})], ids=["comment", "two names"]
)
def test_a_zip_that_two_readers_see_differently_is_refused(
    comment: bytes, extra: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "t.pt").write_bytes(repacked(saved(net().state_dict()), comment, **extra))
    assert refusal(tmp_path / "t.pt").startswith("FILE: is ")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_very_many_names_is_refused(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdrun.models.torchfile.MOST", 40)
    state, path = {f"x{number}": torch.zeros(1) for number in range(50)}, tmp_path / f"t{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    assert "40 are the most that are read" in refusal(path)


def spread(path: Path, size: int) -> None:
    """A file whose header says that it holds one tensor of ``size`` bytes; it takes no room on the disk."""
    tensor = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({"0.weight": tensor}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + size)


def test_a_file_of_20_gb_is_mapped_and_not_read(tmp_path: Path) -> None:
    spread(tmp_path / "t.safetensors", 20 * 10**9)
    assert "made for another model" in refusal(tmp_path / "t.safetensors")
    for name in ("zero.pt", "zero.safetensors"):
        (tmp_path / name).touch()
        os.truncate(tmp_path / name, 20 * 10**9)
        assert refusal(tmp_path / name).startswith("FILE: is not a checkpoint")


@pytest.mark.parametrize("size", [2**62, 100_000_001, 10**6])
def test_a_header_longer_than_its_file_is_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(struct.pack("<Q", size) + b'{"a": 1}')
    assert refusal(tmp_path / "t.safetensors").startswith("FILE: is ")


WEIGHT = torch.linspace(-1, 1, 20).reshape(4, 5)

UNFIT: dict[str, tuple[Callable[[], Tensor], str]] = {
    "nan": (lambda: WEIGHT * float("nan"), "is not finite; use another file"),
    "one inf": (lambda: WEIGHT.index_fill(0, torch.tensor([2]), float("inf")), "is not finite"),
    "too large for float32": (lambda: WEIGHT.double() * 1e300, "is not finite"),
    "int8": (lambda: WEIGHT.to(torch.int8), "is int8 there, float32 in the model"),
    "int64": (lambda: WEIGHT.to(torch.int64), "is int64 there, float32 in the model"),
    "bool": (lambda: WEIGHT > 0, "is bool there, float32 in the model"),
    "complex": (lambda: WEIGHT.to(torch.complex64), "is complex64 there, float32 in the model"),
    "sparse": (WEIGHT.to_sparse, "is sparse, weights are dense numbers"),
    "sparse rows": (WEIGHT.to_sparse_csr, "is sparse, weights are dense numbers"),
    "meta": (lambda: WEIGHT.to("meta"), "is on the device meta, weights are dense numbers"),
    "nested": (lambda: torch.nested.nested_tensor([WEIGHT]), "is nested, weights are dense numbers"),
    "quantized": (lambda: torch.quantize_per_tensor(WEIGHT, 0.1, 0, torch.qint8), "is quantized, weights are dense"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", UNFIT)
def test_weights_that_are_no_finite_floats_are_refused(case: str, tmp_path: Path) -> None:
    make, what = UNFIT[case]
    torch.save({**net().state_dict(), "0.weight": make()}, tmp_path / "t.pt")
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert f"FILE: 0.weight {what}" in refusal(tmp_path / "t.pt")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_buffer_that_counts_takes_no_floats(tmp_path: Path) -> None:
    torch.save({**net().state_dict(), "1.num_batches_tracked": torch.tensor(0.5)}, tmp_path / "t.pt")
    assert "1.num_batches_tracked is float32 there, int64 in the model" in refusal(tmp_path / "t.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16"])
def test_other_floats_are_taken_and_reported(kind: str, suffix: str, tmp_path: Path) -> None:
    state: dict[str, Tensor] = {**net().state_dict(), "0.weight": WEIGHT.to(getattr(torch, kind))}
    path, model = tmp_path / f"t{suffix}", net()
    if suffix == ".pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    assert loading.fill(model, loading.read(path), path, "teacher.checkpoint") == f"{kind} as float32"
    assert torch.equal(model[0].weight, state["0.weight"].float())


def test_a_models_own_weight_file_is_held_to_the_same(tmp_path: Path) -> None:
    state = from_torchvision(3, 7, 32, "shufflenet_v2_x0_5").state_dict()
    torch.save({**state, "conv1.0.weight": state["conv1.0.weight"].half()}, tmp_path / "a.pt")
    model = from_torchvision(3, 7, 32, "shufflenet_v2_x0_5", weights=str(tmp_path / "a.pt"))
    assert model.converted == "float16 as float32"
    torch.save({**state, "conv1.0.weight": state["conv1.0.weight"] * float("nan")}, tmp_path / "b.pt")
    with pytest.raises(InputError, match=r"^weights: .*b\.pt: conv1\.0\.weight is not finite"):
        from_torchvision(3, 7, 32, "shufflenet_v2_x0_5", weights=str(tmp_path / "b.pt"))


def test_a_pickle_of_very_many_steps_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.pt"
    torch.save(net().state_dict(), path)
    loading.read(path)
    monkeypatch.setattr(torchfile, "STEPS", 50)
    assert refusal(path) == "FILE: describes its parts in more than 50 steps, too many for weights"


def test_a_teacher_without_a_recorded_digest_is_not_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.pt"
    torch.save(net().state_dict(), path)
    monkeypatch.setattr(files, "digest", lambda path: pytest.fail("read whole"))
    assert checkpoint({"checkpoint": str(path)}) == path
