"""What single families of models promise beyond the contract that all share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdrun.models.autoencoder import AutoEncoder
from kdrun.models.cnn import CNN, MnistCNN
from kdrun.models.lenet import LeNet5
from kdrun.models.maxout import Maxout, MaxoutNet
from kdrun.models.mlp import MLP
from kdrun.models.mobilenet import MobileNetV2
from kdrun.models.plain import PlainCNN
from kdrun.models.resnet import BasicBlock, Padded, ResNet
from kdrun.models.selfdistill import OwnTeacherResNet18, SelfDistill4, reflect
from kdrun.models.shallow import Block, ShallowResNet
from kdrun.models.vgg import VGG
from kdrun.models.wrn import PreActivationBlock, WideResNet
from kdrun.train.taps import Tapped


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("cls", "size", "arguments", "way_out"),
    [
        (AutoEncoder, 32, {}, "dataset.size=64"),
        (AutoEncoder, 72, {}, "dataset.size=64"),
        (CNN, 3, {}, "dataset.pad_to=4"),
        (LeNet5, 28, {}, "dataset.pad_to=32"),
        (MaxoutNet, 8, {"depth": 3}, "dataset.pad_to=28"),
        (MLP, 8, {"hidden": [32, 0]}, "at least 1 unit"),
        (MnistCNN, 5, {}, "dataset.pad_to=28"),
        (MobileNetV2, 32, {"width": 0.05}, "take 0.0625 or more"),
        (OwnTeacherResNet18, 7, {}, "dataset.pad_to=8"),
        (PlainCNN, 8, {"blocks": [[8], []], "hidden": []}, "at least 1 unit"),
        (PlainCNN, 4, {"blocks": [[8], [8], [8]], "hidden": []}, "dataset.pad_to=8"),
        (ResNet, 32, {"depth": 19}, "take 8, 14, 20"),
        (SelfDistill4, 28, {}, "dataset.pad_to=32"),
        (ShallowResNet, 32, {"depth": 7}, "take 3, 4, 5, 6 or 10"),
        (VGG, 7, {"depth": 8}, "dataset.pad_to=8"),
        (WideResNet, 32, {"depth": 18, "widening": 2}, "take 10, 16, 22"),
    ],
)
def test_a_misfit_says_the_way_out(cls: Any, size: int, arguments: dict[str, Any], way_out: str) -> None:
    with pytest.raises(ValueError, match=way_out):
        cls(1, 10, size, **arguments)


@pytest.mark.parametrize("size", [4, 8, 9, 28, 33])
def test_the_default_teacher_takes_images_of_any_size(size: int) -> None:
    assert CNN(3, 5, size)(torch.randn(2, 3, size, size)).shape == (2, 5)


@pytest.mark.parametrize("size", [28, 31, 32, 33, 40])
@pytest.mark.parametrize("depth", [3, 6])
def test_a_maxout_net_computes_the_size_that_its_windows_leave(depth: Any, size: int) -> None:
    assert MaxoutNet(1, 5, size, depth)(torch.randn(2, 1, size, size)).shape == (2, 5)


def test_dropout_acts_in_training_only() -> None:
    model = MLP(1, 10, 8, [100, 100], dropout=0.5, input_dropout=0.2)
    images = torch.ones(1, 1, 8, 8)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_a_net_without_hidden_layers_is_softmax_regression() -> None:
    assert parameters(MLP(1, 10, 28, [])) == 7850


def test_convolutions_of_a_resnet_begin_with_he_normal_weights() -> None:
    torch.manual_seed(0)
    weight = dict(ResNet(3, 10, 32, 20).named_parameters())["layer3.1.conv1.weight"]
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert weight.abs().max() > 3 * weight.std()  # a uniform law ends at 1.73


def test_a_padded_shortcut_strides_by_two_and_adds_zero_channels() -> None:
    images = torch.randn(2, 3, 5, 5)
    padded = Padded(2, stride=2)(images)
    assert torch.equal(padded[:, :3], images[:, :, [0, 2, 4]][..., [0, 2, 4]])
    assert torch.equal(padded[:, 3:], torch.zeros(2, 2, 3, 3))


def test_padded_shortcuts_have_no_parameters() -> None:
    projections = (16 * 32 + 2 * 32) + (32 * 64 + 2 * 64)
    assert parameters(ResNet(3, 10, 32, 20, "padded")) == 272_474 - projections


@pytest.mark.parametrize(("depth", "count"), [(3, 39_498), (4, 76_490), (5, 159_562), (6, 307_274)])
def test_shallow_resnets_have_their_number_of_parameters(depth: int, count: int) -> None:
    assert parameters(ShallowResNet(3, 10, 32, depth, "truncated")) == count


@pytest.mark.parametrize(("depth", "count"), [(3, 2_970), (4, 8_378), (5, 29_434), (6, 112_506), (10, 308_826)])
def test_narrow_shallow_resnets_have_their_number_of_parameters(depth: int, count: int) -> None:
    assert parameters(ShallowResNet(3, 10, 32, depth, base_width=16)) == count


@pytest.mark.parametrize("family", ["staged", "truncated"])
@pytest.mark.parametrize("depth", [3, 4, 5, 6, 10])
def test_a_shallow_resnet_has_as_many_layers_as_its_name_says(family: Any, depth: int) -> None:
    layers = [
        name
        for name, module in ShallowResNet(3, 10, 32, depth, family).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in name
    ]
    assert len(layers) == depth


@pytest.mark.parametrize(("depth", "published"), [(3, 418_714), (6, 36_226)])
def test_four_pieces_last_give_the_published_configuration(depth: Any, published: int) -> None:
    assert parameters(MaxoutNet(1, 10, 28, depth, pieces_last=4)) == published


def test_a_maxout_unit_is_the_largest_of_its_neighbours() -> None:
    units = Maxout(2)(torch.tensor([1.0, 3.0, -2.0, -5.0]).view(1, 4, 1, 1))
    assert units.flatten().tolist() == [3.0, -2.0]


def test_maxout_weights_begin_within_their_spread() -> None:
    model = MaxoutNet(1, 10, 28, 6, spread=0.01)
    assert max(p.abs().max().item() for p in model.parameters()) <= 0.01
    assert all(p.abs().max() == 0 for name, p in model.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("widths", [(3, 4, 2), (4, 4, 2), (4, 4, 1)])
def test_a_pre_activation_block_without_change_is_its_shortcut(widths: tuple[int, int, int]) -> None:
    inputs, outputs, stride = widths
    block = PreActivationBlock(inputs, outputs, stride, dropout=0.0).eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, inputs, 6, 6)
    projected = inputs != outputs or stride > 1
    assert (block.convShortcut is not None) == projected
    assert torch.equal(block(x), block.convShortcut(F.relu(block.bn1(x))) if projected else x)


def weighted(model: nn.Module) -> list[Any]:
    """Its layers with weights, in the order in which they were made."""
    return [module for module in model.modules() if hasattr(module, "weight")]


def stirred(model: Any) -> Any:
    """The model in float64, its norms in eval mode, none of their numbers at 0 or 1."""
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        for name in ("weight", "bias", "running_mean", "running_var"):
            nn.init.uniform_(getattr(norm.eval(), name), 0.5, 1.5)
    return model.double()


def conv(x: Tensor, layer: Any, stride: int = 1, padding: int = 0) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, stride, padding)


def linear(x: Tensor, layer: Any) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def norm(x: Tensor, layer: Any) -> Tensor:
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)


def lenet(x: Tensor, one: Any, two: Any, three: Any, hidden: Any, last: Any) -> Tensor:
    x = F.max_pool2d(F.relu(conv(x, one)), 2)
    x = F.max_pool2d(F.relu(conv(x, two)), 2)
    return linear(F.relu(linear(F.relu(conv(x, three)).flatten(1), hidden)), last)


def mnist_example(x: Tensor, one: Any, two: Any, hidden: Any, last: Any) -> Tensor:
    x = F.dropout(F.max_pool2d(F.relu(conv(F.relu(conv(x, one)), two)), 2), 0.25)
    return linear(F.dropout(F.relu(linear(x.flatten(1), hidden)), 0.5), last)


def maxout(x: Tensor, *layers: Any) -> Tensor:
    for layer, padding, window, dropped in zip(layers, (0, 3, 3), (4, 4, 2), (0.2, 0.5, 0.5), strict=False):
        x = conv(F.dropout(x, dropped), layer, padding=padding)
        x = F.max_pool2d(torch.maximum(x[:, ::2], x[:, 1::2]), window, 2, ceil_mode=True)
    return linear(F.dropout(x.flatten(1), 0.5), layers[-1])


def plain(x: Tensor, one: Any, two: Any, three: Any, hidden: Any, last: Any) -> Tensor:
    x = F.max_pool2d(F.relu(conv(F.relu(conv(x, one, padding=1)), two, padding=1)), 2)
    x = F.max_pool2d(F.relu(conv(x, three, padding=1)), 2)
    return linear(F.dropout(F.relu(linear(x.flatten(1), hidden)), 0.5), last)


def normed_plain(x: Tensor, one: Any, norm1: Any, two: Any, norm2: Any, last: Any) -> Tensor:
    x = F.relu(norm(conv(x, one, padding=1), norm1))
    return linear(F.max_pool2d(F.relu(norm(conv(x, two, padding=1), norm2)), 2).flatten(1), last)


def autoencoder(x: Tensor, *layers: Any) -> Tensor:
    for layer in layers[:4]:
        x = F.max_pool2d(F.relu(conv(x, layer, 2, 1)), 2, 1)
    x = conv(x, layers[4])
    for place, (up, after) in enumerate(zip(layers[5:13:2], layers[6:13:2], strict=True)):
        stride, padding = (2, 1) if place else (1, 0)
        x = norm(F.relu(F.conv_transpose2d(x, up.weight, None, stride, padding)), after)
    return torch.tanh(F.conv_transpose2d(x, layers[13].weight, None, 2, 1))


def self_distill(x: Tensor, *layers: Any) -> Tensor:
    for place, (stride, padding) in enumerate([(2, 1), (2, 1), (1, 0), (1, 0)]):
        first, norm1, second, norm2, third, norm3 = layers[6 * place : 6 * place + 6]
        x = norm(F.relu(conv(x, first, stride, padding)), norm1)
        change = F.relu(norm(conv(F.pad(x, (1, 1, 1, 1), "reflect"), second), norm2))
        x = x + norm(conv(F.pad(change, (1, 1, 1, 1), "reflect"), third), norm3)
    return linear(x.flatten(1), layers[-1])


@pytest.mark.parametrize(
    ("cls", "size", "arguments", "formula"),
    [
        (AutoEncoder, 64, {"width": 2}, autoencoder),
        (LeNet5, 32, {}, lenet),
        (MaxoutNet, 28, {"depth": 3, "dropout": 0.5, "input_dropout": 0.2, "spread": 0.1}, maxout),
        (MnistCNN, 8, {}, mnist_example),
        (PlainCNN, 8, {"blocks": [[3, 4], [5]], "hidden": [6], "dropout": 0.5}, plain),
        (PlainCNN, 8, {"blocks": [[3, 4]], "hidden": [], "norm": True}, normed_plain),
        (SelfDistill4, 32, {"width": 2}, self_distill),
    ],
)
def test_a_net_is_the_formula_of_its_source(cls: Any, size: int, arguments: dict[str, Any], formula: Any) -> None:
    torch.manual_seed(0)
    model, images = stirred(cls(3, 5, size, **arguments)), torch.randn(2, 3, size, size, dtype=torch.float64)
    torch.manual_seed(1)  # the same draws of dropout on both sides
    outputs = model(images)
    torch.manual_seed(1)
    torch.testing.assert_close(outputs, formula(images, *weighted(model)))


def residual(x: Tensor, block: nn.Module) -> Tensor:
    """A block of He et al. 2015; where channels double, pixels halve and the shortcut is a 1x1 convolution."""
    layers = weighted(block)
    stride, shortcut = layers[0].out_channels // layers[0].in_channels, x
    if stride == 2:
        *layers, projection, after = layers
        shortcut = norm(conv(x, projection, stride), after)
    change = norm(conv(x, layers[0], stride, 1), layers[1])
    if layers[2:]:
        change = norm(conv(F.relu(change), layers[2], padding=1), layers[3])
    return F.relu(change + shortcut)


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (OwnTeacherResNet18, {"width": 4}),
        (ResNet, {"depth": 14, "width": 4}),
        *((ShallowResNet, {"depth": depth, "base_width": 4}) for depth in (3, 4, 5, 6, 10)),
    ],
)
def test_a_residual_net_is_stem_blocks_and_global_average(cls: Any, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, images = stirred(cls(3, 5, 8, **arguments)), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    x = F.relu(norm(conv(images, model.conv1, padding=1), model.bn1))
    for block in (module for module in model.modules() if isinstance(module, BasicBlock | Block)):
        x = residual(x, block)
    torch.testing.assert_close(model(images), linear(x.mean((2, 3)), model.fc))


def test_reflection_mirrors_the_border_without_repeating_it() -> None:
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    torch.testing.assert_close(reflect(x), nn.ReflectionPad2d(1)(x), rtol=0, atol=0)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_an_encoder_is_one_row_smaller_than_the_decoder_across(size: int) -> None:
    model = AutoEncoder(3, 0, size)
    with torch.no_grad():
        image, (enc1, enc2, dec3, dec4) = Tapped(model, ["enc1", "enc2", "dec3", "dec4"])(torch.randn(1, 3, size, size))
    assert enc1.shape == (1, 64, size // 2 - 1, size // 2 - 1)
    assert dec4.shape == (1, 64, size // 2, size // 2)
    assert enc2.shape == (1, 128, size // 4 - 1, size // 4 - 1)
    assert dec3.shape == (1, 128, size // 4, size // 4)
    assert image.shape == (1, 3, size, size)
    assert image.abs().max() <= 1


@pytest.mark.parametrize("size", [80, 96])
def test_an_auto_encoder_takes_sizes_in_steps_of_16(size: int) -> None:
    with torch.no_grad():
        assert AutoEncoder(1, 0, size)(torch.randn(1, 1, size, size)).shape == (1, 1, size, size)


HEADED = [(SelfDistill4, 32, ["layer1", "layer2", "layer3", "layer4"], (512, 4, 4))]
HEADED += [(OwnTeacherResNet18, size, ["layer1", "layer2", "layer3", "flatten"], (512,)) for size in (8, 28, 32)]


@pytest.mark.parametrize(("cls", "size", "taps", "shape"), HEADED)
def test_heads_bring_every_tap_to_the_form_of_the_deepest(cls: Any, size: int, taps: list[str], shape: Any) -> None:
    model = cls(3, 7, size)
    logits, features = Tapped(model, taps)(torch.randn(2, 3, size, size))
    assert features[-1].shape == (2, *shape)
    assert len(model.heads) == len(features) - 1
    for head, feature in zip(model.heads, features, strict=False):
        shallow, projected = head(feature)
        assert shallow.shape == logits.shape
        assert projected.shape == features[-1].shape


def test_a_resnet18_head_is_a_bottleneck_with_a_strided_middle() -> None:
    torch.manual_seed(0)
    head = OwnTeacherResNet18(3, 7, 32).heads[1]
    one, two, three = (module for module in head.modules() if isinstance(module, nn.Conv2d))
    x = hidden = torch.randn(2, 128, 16, 16)
    for weight, stride in ((one, 1), (two, 4), (three, 1)):
        hidden = F.conv2d(hidden, weight.weight, weight.bias, stride)
        spread = hidden.var((0, 2, 3), unbiased=False, keepdim=True)
        hidden = ((hidden - hidden.mean((0, 2, 3), keepdim=True)) / (spread + 1e-5).sqrt()).clamp(min=0)
    assert hidden.shape == (2, 512, 4, 4)
    torch.testing.assert_close(head(x)[1], hidden.mean((2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("cls", "size"), [(SelfDistill4, 32), (OwnTeacherResNet18, 8)])
def test_every_parameter_of_a_head_learns_from_its_logits(cls: Any, size: int) -> None:
    model = cls(3, 7, size)
    features = Tapped(model, ["layer1", "layer2", "layer3"])(torch.randn(2, 3, size, size)).features
    sum(head(feature)[0].logsumexp(1).sum() for head, feature in zip(model.heads, features, strict=True)).backward()
    assert all(parameter.grad is not None for parameter in model.heads.parameters())


@pytest.mark.parametrize(("cls", "without"), [(SelfDistill4, 7_907_466), (OwnTeacherResNet18, 11_173_962)])
def test_a_net_without_heads_is_its_backbone_with_equal_logits(cls: Any, without: int) -> None:
    model = cls(3, 10, 32).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        whole = model(images)
        del model.heads
        assert torch.equal(model(images), whole)
    assert parameters(model) == without
