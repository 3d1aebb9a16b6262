"""What every model promises, whatever its family: run over every YAML of conf/model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from torch import Tensor, nn

from kdrun.train.stage import Outputs
from kdrun.train.taps import Tapped

CONF = Path(__file__).parents[2] / "conf"
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
TRANSLATORS = ["ae"]
CLASSES = 7

# the shape of a batch, and of each tap's output: what the YAML's taps stand for
SHAPES: dict[str, tuple[tuple[int, ...], list[tuple[int, ...]]]] = {
    "ae": (
        (2, 3, 64, 64),
        [
            *[(2, 64, 31, 31), (2, 128, 15, 15), (2, 256, 7, 7), (2, 512, 3, 3), (2, 512, 1, 1)],
            *[(2, 512, 4, 4), (2, 256, 8, 8), (2, 128, 16, 16), (2, 64, 32, 32), (2, 3, 64, 64)],
        ],
    ),
    "byot_resnet18": ((2, 3, 8, 8), [(2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2), (2, 512)]),
    "cnn": ((2, 1, 8, 8), [(2, 36, 8, 8), (2, 72, 4, 4), (2, 144, 2, 2)]),
    "deep_cnn": ((2, 3, 32, 32), [(2, 64, 16, 16), (2, 32, 8, 8)]),
    "lenet5": ((2, 1, 32, 32), [(2, 6, 14, 14), (2, 16, 5, 5), (2, 120, 1, 1)]),
    "lenet5_half": ((2, 1, 32, 32), [(2, 3, 14, 14), (2, 8, 5, 5), (2, 60, 1, 1)]),
    "light_cnn": ((2, 3, 32, 32), [(2, 16, 16, 16), (2, 16, 8, 8)]),
    "maxout3": ((2, 1, 28, 28), [(2, 48, 10, 10), (2, 48, 4, 4), (2, 24, 3, 3)]),
    "maxout6": (
        (2, 1, 28, 28),
        [(2, 16, 24, 24), (2, 16, 10, 10), (2, 16, 12, 12), (2, 16, 4, 4), (2, 12, 8, 8), (2, 12, 3, 3)],
    ),
    "mlp_16": ((2, 1, 8, 8), [(2, 16)]),
    "mlp_30": ((2, 1, 8, 8), [(2, 30)]),
    "mlp_32": ((2, 1, 8, 8), [(2, 32)]),
    "mlp_100": ((2, 1, 8, 8), [(2, 100)]),
    "mlp_400": ((2, 1, 8, 8), [(2, 400), (2, 400)]),
    "mlp_800": ((2, 1, 8, 8), [(2, 800), (2, 800)]),
    "mlp_1200": ((2, 1, 8, 8), [(2, 1200), (2, 1200)]),
    "mnist_cnn": ((2, 1, 28, 28), [(2, 32, 26, 26), (2, 64, 12, 12), (2, 128)]),
    "mobilenetv2": ((2, 3, 32, 32), [(2, 12, 16, 16), (2, 16, 8, 8), (2, 48, 4, 4), (2, 160, 2, 2)]),
    "plane2": ((2, 3, 8, 8), [(2, 16, 4, 4), (2, 16, 2, 2)]),
    "plane4": ((2, 3, 8, 8), [(2, 16, 4, 4), (2, 32, 2, 2)]),
    "plane6": ((2, 3, 8, 8), [(2, 16, 4, 4), (2, 32, 2, 2), (2, 64, 1, 1)]),
    "plane8": ((2, 3, 16, 16), [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2), (2, 128, 1, 1)]),
    "plane10": ((2, 3, 16, 16), [(2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2), (2, 256, 1, 1)]),
    "resnet3": ((2, 3, 8, 8), [(2, 64, 8, 8)]),
    "resnet4": ((2, 3, 8, 8), [(2, 64, 8, 8), (2, 128, 4, 4)]),
    "resnet5": ((2, 3, 8, 8), [(2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2)]),
    "resnet6": ((2, 3, 8, 8), [(2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2), (2, 512, 1, 1)]),
    "resnet10": ((2, 3, 8, 8), [(2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2), (2, 512, 1, 1)]),
    **{
        f"resnet{depth}": ((2, 3, 8, 8), [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)])
        for depth in (8, 14, 20, 26, 32, 44, 56, 110)
    },
    "resnet8x4": ((2, 3, 8, 8), [(2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2)]),
    "resnet32x4": ((2, 3, 8, 8), [(2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2)]),
    "selfdistill4": ((2, 3, 32, 32), [(2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 6, 6), (2, 512, 4, 4)]),
    "shufflenetv1": ((2, 3, 16, 16), [(2, 240, 8, 8), (2, 480, 4, 4), (2, 960, 2, 2)]),
    "shufflenetv2": ((2, 3, 16, 16), [(2, 116, 8, 8), (2, 232, 4, 4), (2, 464, 2, 2)]),
    "torchvision": ((2, 3, 8, 8), [(2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2), (2, 512, 1, 1)]),
    "vgg8": ((2, 3, 8, 8), [(2, 128, 4, 4), (2, 256, 2, 2), (2, 512, 1, 1), (2, 512, 1, 1)]),
    "vgg13": ((2, 3, 8, 8), [(2, 128, 4, 4), (2, 256, 2, 2), (2, 512, 1, 1), (2, 512, 1, 1)]),
    "wrn_16_2": ((2, 3, 8, 8), [(2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2)]),
    "wrn_40_1": ((2, 3, 8, 8), [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]),
    "wrn_40_2": ((2, 3, 8, 8), [(2, 32, 8, 8), (2, 64, 4, 4), (2, 128, 2, 2)]),
    "wrn_28_10": ((2, 3, 8, 8), [(2, 160, 8, 8), (2, 320, 4, 4), (2, 640, 2, 2)]),
}

# name, channels, classes, size, parameters: published, or counted by hand from the layers where written as a sum
COUNTS = [
    ("ae", 3, 10, 64, 10_862_592),
    ("byot_resnet18", 3, 100, 32, 13_011_152),
    ("cnn", 1, 10, 28, 118_918),
    ("deep_cnn", 3, 10, 32, 1_186_986),
    ("lenet5", 1, 10, 32, 61_706),
    ("lenet5", 3, 10, 32, 62_006),
    ("lenet5_half", 1, 10, 32, 15_738),
    ("lenet5_half", 3, 10, 32, 15_888),
    ("light_cnn", 3, 10, 32, 267_738),
    ("maxout3", 1, 10, 28, 361_066),
    ("maxout6", 1, 10, 28, 30_130),
    ("mlp_16", 1, 10, 28, 785 * 16 + 17 * 10),
    ("mlp_30", 1, 10, 28, 785 * 30 + 31 * 10),
    ("mlp_32", 1, 10, 28, 25_450),
    ("mlp_100", 1, 10, 28, 79_510),
    ("mlp_400", 1, 10, 28, 785 * 400 + 401 * 400 + 401 * 10),
    ("mlp_800", 1, 10, 28, 785 * 800 + 801 * 800 + 801 * 10),
    ("mlp_1200", 1, 10, 28, 785 * 1200 + 1201 * 1200 + 1201 * 10),
    ("mnist_cnn", 1, 10, 28, 1_199_882),
    ("mobilenetv2", 3, 100, 32, 812_836),
    ("plane2", 3, 10, 32, 28 * 16 + 145 * 16 + 4 * 16 + 1025 * 10),
    ("plane4", 3, 10, 32, 28 * 16 + 145 * 16 + 145 * 32 + 289 * 32 + 2 * 2 * (16 + 32) + 2049 * 10),
    ("plane6", 3, 10, 32, 82_778),
    ("plane8", 3, 10, 32, 327_962),
    ("plane10", 3, 10, 32, 2_487_850),
    ("resnet3", 3, 10, 32, 39_498),
    ("resnet4", 3, 10, 32, 122_570),
    ("resnet5", 3, 10, 32, 452_554),
    ("resnet6", 3, 10, 32, 1_767_882),
    ("resnet8", 3, 10, 32, 78_042),
    ("resnet10", 3, 10, 32, 4_903_242),
    ("resnet14", 3, 10, 32, 175_258),
    ("resnet20", 3, 10, 32, 272_474),
    ("resnet26", 3, 10, 32, 369_690),
    ("resnet32", 3, 10, 32, 466_906),
    ("resnet44", 3, 10, 32, 661_338),
    ("resnet56", 3, 10, 32, 855_770),
    ("resnet110", 3, 10, 32, 1_730_714),
    *(
        (f"resnet{depth}", 3, 100, 32, count + 5_850)
        for depth, count in {8: 78_042, 14: 175_258, 20: 272_474, 26: 369_690, 32: 466_906, 110: 1_730_714}.items()
    ),
    ("resnet8x4", 3, 100, 32, 1_233_540),
    ("resnet32x4", 3, 100, 32, 7_433_860),
    ("selfdistill4", 3, 10, 32, 14_615_848),
    ("shufflenetv1", 3, 100, 32, 949_258),
    ("shufflenetv2", 3, 100, 32, 1_355_528),
    ("torchvision", 3, 100, 32, 11_220_132),
    ("vgg8", 3, 100, 32, 3_965_028),
    ("vgg13", 3, 100, 32, 9_462_180),
    ("wrn_16_2", 3, 100, 32, 703_284),
    ("wrn_40_1", 3, 100, 32, 569_780),
    ("wrn_40_2", 3, 100, 32, 2_255_156),
    ("wrn_28_10", 3, 10, 32, 36_479_194),
]


def build(name: str, channels: int, classes: int, size: int) -> nn.Module:
    node = read(name)
    build = load(node.pop("_target_"))
    del node["taps"]
    node.pop("recipe", None)  # how it is trained as a teacher
    return build(channels, classes, size, **node)


def read(name: str) -> dict[str, Any]:
    node: dict[str, Any] = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    return node


def load(target: str) -> Callable[..., nn.Module]:
    module, _, name = target.rpartition(".")
    target: Callable[..., nn.Module] = getattr(import_module(module), name)
    return target


class Run(NamedTuple):
    """A model after one forward pass in training."""

    name: str
    model: nn.Module
    images: Tensor
    outputs: Outputs
    captured: list[Tensor]  # copies of the features, taken when they came out
    classified: Tensor | None  # what the last linear layer gave


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest) -> Run:
    torch.manual_seed(0)
    shape, _ = SHAPES[request.param]
    model = build(request.param, shape[1], CLASSES, shape[-1])
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    captured: dict[Any, Tensor] = {}
    taps = read(request.param)["taps"]
    for tap in taps:
        model.get_submodule(tap).register_forward_hook(
            lambda module, args, output, tap=tap: captured.update({tap: output.detach().clone()})
        )
    for last in linear[-1:]:
        last.register_forward_hook(lambda module, args, output: captured.update(last=output))
    images = torch.randn(shape)
    outputs = Tapped(model, taps)(images)
    return Run(request.param, model, images, outputs, [captured[tap] for tap in taps], captured.get("last"))


def test_every_model_states_its_shapes_here() -> None:
    assert sorted(SHAPES) == MODELS


@pytest.mark.parametrize("name", MODELS)
def test_a_yaml_names_every_argument_of_its_class(name: str) -> None:
    node = read(name)
    arguments = list(inspect.signature(load(node["_target_"])).parameters)
    assert arguments[:3] == ["channels", "classes", "size"]
    assert set(node) - {"recipe"} == {"_target_", "taps", *arguments[3:]}


@pytest.mark.parametrize("name", MODELS)
def test_a_yaml_says_what_it_is_and_how_to_run_it(name: str) -> None:
    first, *rest = (CONF / "model" / f"{name}.yaml").read_text().splitlines()
    assert first.startswith("# ") and len(first) <= 110
    assert any(line.startswith("#   kdrun train ") for line in rest)


@pytest.mark.parametrize(("name", "channels", "classes", "size", "count"), COUNTS)
def test_a_model_has_its_published_number_of_parameters(
    name: str, channels: int, classes: int, size: int, count: int
) -> None:
    with torch.device("meta"):  # counts without drawing weights
        model = build(name, channels, classes, size)
    assert sum(parameter.numel() for parameter in model.parameters()) == count


def test_taps_come_out_in_their_shapes(run: Run) -> None:
    _, shapes = SHAPES[run.name]
    assert [tuple(feature.shape) for feature in run.outputs.features] == shapes


def test_classifiers_give_logits_and_translators_give_images(run: Run) -> None:
    wanted = run.images.shape if run.name in TRANSLATORS else (2, CLASSES)
    assert run.outputs.logits.shape == wanted


def test_no_layer_writes_into_a_tapped_feature(run: Run) -> None:
    assert all(torch.equal(*pair) for pair in zip(run.outputs.features, run.captured, strict=True))


def test_the_last_linear_layer_gives_the_logits(run: Run) -> None:
    assert run.classified is run.outputs.logits or run.name in TRANSLATORS


def test_every_parameter_outside_shallow_heads_gets_a_gradient(run: Run) -> None:
    run.outputs.logits.logsumexp(dim=1).sum().backward()
    without = [name for name, parameter in run.model.named_parameters() if parameter.grad is None]
    assert [name for name in without if not name.startswith("heads.")] == []


def test_the_global_generator_decides_the_initial_weights(run: Run) -> None:
    _, channels, _, size = run.images.shape
    torch.manual_seed(0)
    again, other = (dict(build(run.name, channels, CLASSES, size).named_parameters()) for _ in range(2))
    first = dict(run.model.named_parameters())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_memory_format_changes_no_logit(run: Run) -> None:
    if not getattr(run.model, "channels_last", False):
        return
    model = copy.deepcopy(run.model).eval()
    with torch.no_grad():
        plain = model(run.images)
        turned = model.to(memory_format=torch.channels_last)(run.images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(turned, plain, rtol=1e-3, atol=1e-4)


OF_EACH_CLASS = sorted({read(name)["_target_"]: name for name in reversed(MODELS)}.values())
"""A model of each class."""


@pytest.mark.parametrize("name", OF_EACH_CLASS)
def test_outputs_do_not_depend_on_the_neighbours_in_a_block(name: str) -> None:
    torch.manual_seed(0)
    (_, channels, _, size), _ = SHAPES[name]
    model = build(name, channels, CLASSES, size).eval()
    if getattr(model, "channels_last", False):
        model.to(memory_format=torch.channels_last)
    images = torch.randn(64, channels, size, size)
    others = images.clone()
    others[1::2] = torch.randn(32, channels, size, size)
    with torch.no_grad():
        assert torch.equal(model(others)[::2], model(images)[::2])
