"""Contrastive representation distillation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from oracle import case, check_finite
from tiny import Memory, config, experiment
from torch import Tensor

from kdrun.methods.crd import CRD, Bank, contrastive


def connected(student: int, teacher: int, count: int, width: int = 4, **more: float) -> CRD:
    torch.manual_seed(0)
    method = CRD(width=width, **more)  # type: ignore[arg-type]
    method.embed(student, teacher)
    method.keep(Bank(torch.arange(count), torch.arange(count) % 3, count, width))
    return method


def test_two_steps_are_those_of_the_paper() -> None:
    example = case("crd")
    method = connected(6, 8, 12).double()
    bank = method.banks[0].double()
    with torch.no_grad():
        for name, layer in (("embed_s", method.student_layer), ("embed_t", method.teacher_layer)):
            layer.weight.copy_(example.weights[f"{name}.weight"]), layer.bias.copy_(example.weights[f"{name}.bias"])
        bank.student.copy_(example.weights["memory_v1"]), bank.teacher.copy_(example.weights["memory_v2"])
    inputs = example.inputs
    first = torch.cat([inputs["idx"][:, None], inputs["contrast"][:, 1:]], 1)
    example.check(method.contrast(inputs["f_s"], inputs["f_t"], first))
    method.after_step()
    example.close(bank.log_constants.exp(), [example.expected["Z_v1"], example.expected["Z_v2"]])
    example.close(bank.student, example.expected["memory_v1_after"])
    second = method.contrast(inputs["f_s2"], inputs["f_t2"], inputs["contrast2"].long())
    example.close(second, example.expected["loss_second_step"])


def test_both_linear_layers_learn() -> None:
    method = connected(6, 8, 12)
    contrast = torch.cat([torch.arange(4)[:, None], torch.randint(12, (4, 7))], 1)
    method.contrast(torch.randn(4, 6), torch.randn(4, 8), contrast).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in method.parameters())


@pytest.mark.parametrize("of_others", [True, False])
def test_negatives_are_of_other_classes_or_of_any(of_others: bool) -> None:
    labels = torch.tensor([2, 0, 1, 2, 2, 0, 1, 2])
    places = torch.arange(8) * 3 + 1
    negatives = Bank(places, labels, 25, 4).draw(torch.tensor([2, 0, 1]), 4000, of_others)
    for target, row in zip((2, 0, 1), negatives, strict=True):
        counts = torch.bincount(row, minlength=25)
        among = places[labels != target] if of_others else places
        assert set(counts.nonzero()[:, 0].tolist()) == set(among.tolist())
        assert (counts[among] / 4000).tolist() == pytest.approx([1 / len(among)] * len(among), abs=0.04)


def test_images_of_one_class_alone_have_any_as_negatives() -> None:
    negatives = Bank(torch.arange(5), torch.zeros(5).long(), 5, 4).draw(torch.tensor([0]), 100, True)
    assert set(negatives.flatten().tolist()) == set(range(5))


def test_the_constants_are_those_of_the_first_batch() -> None:
    method = connected(6, 8, 12)
    contrast = torch.cat([torch.arange(4)[:, None], torch.randint(12, (4, 7))], 1)
    constants = []
    for _ in range(2):
        method.contrast(torch.randn(4, 6), torch.randn(4, 8), contrast)
        method.after_step()
        constants.append(method.banks[0].log_constants.clone())
    assert torch.equal(*constants)
    assert (constants[0] != 0).all()


def test_the_memory_is_resumed_but_not_kept_with_the_best_epoch(tmp_path: Path) -> None:
    words = ("method=crd", "method.width=8", "epochs=2")
    exp, memory = experiment(tmp_path, *words), Memory()
    method = exp.method(config(tmp_path, *words)["method"])
    exp.follow(method, memory.journal)
    state = memory.saves[-1]
    assert set(state["memory"]) == {"student", "teacher", "log_constants", "steps"}
    assert torch.equal(state["memory"]["student"], method.banks[0].student)
    sizes = [value.shape for modules in (state["modules"], state["best"]["modules"]) for value in modules.values()]
    assert method.banks[0].student.shape not in sizes
    lengths = state["memory"]["student"].norm(dim=1)[exp.data.train_places.index]
    assert lengths.tolist() == pytest.approx([1.0] * exp.data.train.size)


@pytest.mark.parametrize("scale", [1e4, 1e-6])
def test_extreme_vectors_have_finite_values_and_gradients(scale: float) -> None:
    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        method = connected(4, 4, 12)
        contrast = torch.cat([torch.arange(len(student))[:, None], torch.randint(12, (len(student), 7))], 1)
        return method.contrast(scale * student, teacher, contrast)

    check_finite(loss, 5, 4)
    for log_scores in ([0.0, 200.0], [-200.0, 0.0]):
        assert torch.isfinite(contrastive(torch.tensor([log_scores]), 10))
