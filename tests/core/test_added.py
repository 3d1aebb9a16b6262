"""Taps that a method adds: traced in every net without being named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import config
from torch import nn

from kdrun.core.added import blocks, last_map, penultimate, preactivation, shape_of
from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.run.assembly import assemble
from kdrun.train.runtime import Interrupt, Runtime

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def with_student(out: Path, *words: str, method: str = "cosine") -> Experiment:
    """An experiment on 3x32x32 images; its method reads features, so the student is tapped."""
    shape = ["dataset.channels=3", "dataset.size=32", "dataset.mean=[0.5,0.5,0.5]", "dataset.std=[0.5,0.5,0.5]"]
    whole = config(out, *shape, f"method={method}", *words)
    return assemble(whole, Runtime.of(whole, Interrupt()), lambda *row: None, lambda line: None).exp


NETS = ["resnet8", "wrn_16_2", "vgg8", "mobilenetv2", "shufflenetv1", "shufflenetv2", "lenet5", "mlp_16", "resnet10"]


@pytest.mark.parametrize("net", [*NETS, "torchvision"])
def test_the_penultimate_vector_gives_the_logits(net: str, tmp_path: Path) -> None:
    exp = with_student(tmp_path, f"student={net}", method="kd")
    number = penultimate(exp, exp.student)
    assert exp.student.taps == []
    outputs = exp.student.eval()(IMAGES)
    classifier = exp.classifier(exp.student, "student")
    assert torch.equal(classifier(outputs.features[number]), outputs.logits)
    assert shape_of(exp, exp.student, number) == (1, classifier.in_features)


def test_a_net_whose_logits_come_from_elsewhere_is_refused(tmp_path: Path) -> None:
    exp = with_student(
        tmp_path, "student=torchvision", "student.net=squeezenet1_0", "student.small_images=false", method="kd"
    )
    with pytest.raises(ConfigError, match=r"^student: its logits do not come from its last linear layer"):
        penultimate(exp, exp.student)


@pytest.mark.parametrize("net", [*NETS[:6], "resnet10", "torchvision"])
def test_the_last_map_is_that_which_is_pooled(net: str, tmp_path: Path) -> None:
    exp = with_student(tmp_path, f"student={net}", method="kd")
    number = last_map(exp, exp.student)
    outputs = exp.student.eval()(IMAGES)
    side = {"vgg8": 4, "resnet10": 4, "mobilenetv2": 2, "shufflenetv1": 4, "shufflenetv2": 4, "torchvision": 4}.get(
        net, 8
    )
    assert outputs.features[number].shape[2:] == (side, side)
    vector = outputs.features[number].mean((2, 3))
    torch.testing.assert_close(exp.classifier(exp.student, "student")(vector), outputs.logits)


@pytest.mark.parametrize("net", ["lenet5", "mlp_16"])
def test_a_net_that_pools_no_map_is_refused(net: str, tmp_path: Path) -> None:
    exp = with_student(tmp_path, f"student={net}", method="kd")
    with pytest.raises(ConfigError, match=r"^student: the input of its classifier is not the mean of a map over its"):
        last_map(exp, exp.student)


RECTIFIED = ["resnet8", "resnet20", "vgg8", "shufflenetv1", "resnet10", "torchvision"]


@pytest.mark.parametrize("net", RECTIFIED)
def test_a_rectified_map_is_the_relu_of_its_preactivation(net: str, tmp_path: Path) -> None:
    exp = with_student(tmp_path, f"student={net}")
    traced = [preactivation(exp, exp.student, number) for number in range(len(exp.student.taps))]
    outputs = exp.student.eval()(IMAGES)
    for number, (before, norm) in enumerate(traced):
        assert (outputs.features[before] < 0).any()
        assert torch.equal(outputs.features[before].relu(), outputs.features[number])
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.num_features == outputs.features[number].shape[1]


def test_a_pre_activation_net_has_it_behind_the_next_norm(tmp_path: Path) -> None:
    exp = with_student(tmp_path, "student=wrn_16_2")
    net, norms = exp.student.model, [preactivation(exp, exp.student, number) for number in range(3)]
    following = [net.block2.layer[0].bn1, net.block3.layer[0].bn1, net.bn1]
    outputs = exp.student.eval()(IMAGES)
    for number, ((before, norm), expected) in enumerate(zip(norms, following, strict=True)):
        assert norm is expected
        assert torch.equal(outputs.features[before], norm(outputs.features[number]))


def test_a_linear_bottleneck_is_its_own_preactivation(tmp_path: Path) -> None:
    exp = with_student(tmp_path, "student=mobilenetv2")
    blocks = exp.student.model.blocks
    assert [preactivation(exp, exp.student, number) for number in range(4)] == [
        (number, blocks[stage][-1].conv[-1]) for number, stage in enumerate((1, 2, 4, 6))
    ]


@pytest.mark.parametrize("tap", ["layer1", "layer2"])
def test_a_map_pooled_behind_its_activation_is_refused(tap: str, tmp_path: Path) -> None:
    exp = with_student(tmp_path, "student=lenet5", f"student.taps=[{tap}]")
    what = f"^student.taps: {tap} is no output of an activation module, but has no negative values either; tap the"
    with pytest.raises(ConfigError, match=what):
        preactivation(exp, exp.student, 0)


BLOCKS = {
    "resnet20": [f"layer{stage}.{number}" for stage in (1, 2, 3) for number in (0, 1, 2)],
    "wrn_16_2": [f"block{stage}.layer.{number}" for stage in (1, 2, 3) for number in (0, 1)],
    "vgg8": ["relu1", "relu2", "relu3", "relu4"],
    "mobilenetv2": [
        f"blocks.{stage}.{number}" for stage, count in ((1, 2), (2, 3), (4, 3), (6, 1)) for number in range(count)
    ],
}


@pytest.mark.parametrize("net", BLOCKS)
def test_the_blocks_of_a_net_are_those_of_its_stages(net: str, tmp_path: Path) -> None:
    exp = with_student(tmp_path, f"student={net}")
    numbers = blocks(exp.student)
    outputs = exp.student.eval()(IMAGES)
    modules = [exp.student.model.get_submodule(name) for name in BLOCKS[net]]
    calls: list[torch.Tensor] = []
    for module in modules:
        module.register_forward_hook(lambda module, args, output: calls.append(output))
    exp.student(IMAGES)
    assert len(calls) == len(numbers)
    assert all(torch.equal(outputs.features[number], call) for number, call in zip(numbers, calls, strict=True))
