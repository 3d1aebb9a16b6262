"""compile=true needs CUDA; all but its speed is tested on a CPU, by a compiler told to leave things as they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import Memory, config, copied, same
from torch import Tensor
from torch._dynamo.utils import counters

from kdrun.data.splits import Data
from kdrun.run.assembly import Assembly, assemble, teach
from kdrun.train.runtime import Interrupt, Runtime
from kdrun.train.taps import Tapped

# torch's compiler imports a module that uses what torch 2.10 and 2.11 call deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")

COMPILE = Tapped.compile_batches
METHODS = ["kd", "fitnets", "gan", "wskd", "gskd method.students=[mlp_16] student=mlp_32"]


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which batch sizes were to be compiled, in order."""
    compiled: list[int] = []

    def compile_batches(self: Tapped, size: int) -> None:
        compiled.append(size)
        COMPILE(self, size, "eager")

    monkeypatch.setattr(Tapped, "compile_batches", compile_batches)
    torch._dynamo.reset()
    counters.clear()
    return compiled


def assembled(out: Path, compiled: bool, *words: str) -> Assembly:
    whole = config(out, "epochs=2", "batch_size=16", *words)
    runtime = replace(Runtime.of(whole, Interrupt()), compile=compiled)
    return assemble(whole, runtime, lambda *row: None, lambda line: None)


def trained(out: Path, compiled: bool, *words: str) -> dict[str, Tensor]:
    """Returns the student's weights at the end of its training."""
    assembly = assembled(out, compiled, *words)
    exp = teach(assembly.on(Data.read(assembly.exp.data.source)), assembly.teacher)
    exp.follow(assembly.method, Memory().journal)
    return copied(exp.student.model)


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_run_ends_where_an_uncompiled_one_does(tmp_path: Path, sizes: list[int], method: str) -> None:
    words = f"method={method}".split()
    plain = trained(tmp_path / "plain", False, *words)
    assert counters["stats"]["unique_graphs"] == 0
    assert same(trained(tmp_path / "compiled", True, *words), plain)
    assert 0 < counters["stats"]["unique_graphs"] <= 2 * len(sizes)


def test_each_model_is_compiled_for_the_batches_that_it_sees(tmp_path: Path, sizes: list[int]) -> None:
    trained(tmp_path, True, "method=kd")
    assert sizes == [16, 32, 16]  # the student; the teacher while it is trained; the teacher as the student's


def test_other_batches_are_not_compiled(sizes: list[int]) -> None:
    net = Tapped(torch.nn.Linear(4, 3))
    net.compile_batches(5)
    net(torch.zeros(2, 4))
    assert counters["stats"]["unique_graphs"] == 0
    net(torch.zeros(5, 4))
    assert counters["stats"]["unique_graphs"] == 1


def test_a_rehearsal_compiles_no_model(tmp_path: Path, sizes: list[int]) -> None:
    assembled(tmp_path, True, "method=kd").summaries()
    assert sizes == []
    assert counters["stats"]["unique_graphs"] == 0


def test_a_compiled_model_keeps_the_names_of_its_weights(sizes: list[int]) -> None:
    net = Tapped(torch.nn.Linear(4, 3))
    names = list(net.state_dict())
    net.compile_batches(5)
    net(torch.zeros(5, 4))
    assert list(net.state_dict()) == names


def test_a_tap_added_after_compiling_is_captured(sizes: list[int]) -> None:
    net = Tapped(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))).eval()
    images = torch.randn(5, 4)
    net.compile_batches(5)
    with torch.no_grad():
        net(images)
        number = net.add("2:in")
        assert torch.equal(net(images).features[number], net.model[0](images).relu())
