from __future__ import annotations

import gc
import weakref
from collections import OrderedDict
from copy import deepcopy

import pytest
import torch
from tiny import copied, same
from torch import Tensor, nn

from kdrun.errors import ConfigError
from kdrun.train.taps import Renormalized, Tapped, freeze


class Counted(nn.Module):
    """Passes its input on and counts how often."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x


def net() -> nn.Sequential:
    torch.manual_seed(0)
    first = nn.Sequential(OrderedDict(conv=nn.Conv2d(2, 3, 3), bn=nn.BatchNorm2d(3)))
    second = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4), act=nn.ReLU()))
    rest = OrderedDict(count=Counted(), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(4, 5))
    return nn.Sequential(OrderedDict(first=first, second=second, **rest))


IMAGES = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def test_features_come_in_the_order_of_taps_and_not_of_layers() -> None:
    logits, features = Tapped(net(), ["second.bn", "first", "fc"])(IMAGES)
    assert [feature.shape[1] for feature in features] == [4, 3, 5]
    assert features[2] is logits


def test_features_are_what_the_submodules_give() -> None:
    model = net().eval()
    first = model.first(IMAGES)
    second = model.second(first)
    logits, features = Tapped(model, ["first", "second", "second.conv"])(IMAGES)
    for feature, expected in zip(features, (first, second, model.second.conv(first)), strict=True):
        assert torch.equal(feature, expected)
    assert torch.equal(logits, model(IMAGES))


def test_a_model_without_taps_has_no_features() -> None:
    assert Tapped(net())(IMAGES).features == []


def test_an_unknown_tap_lists_what_the_model_has() -> None:
    with pytest.raises(AttributeError) as caught:
        Tapped(net(), ["first", "secnd"])
    assert str(caught.value).startswith("no submodule 'secnd' (has: first, first.conv, first.bn, second, ")


def test_gradients_flow_through_features() -> None:
    tapped = Tapped(net(), ["first.conv"])
    tapped(IMAGES).features[0].sum().backward()
    assert tapped.model.first.conv.weight.grad is not None
    assert tapped.model.second.conv.weight.grad is None


def test_a_tap_gives_the_same_when_the_rest_is_not_computed() -> None:
    tapped = Tapped(net(), ["first", "second"]).eval()
    for place, feature in enumerate(tapped(IMAGES).features):
        assert torch.equal(tapped.until(IMAGES, place), feature)


def test_modules_behind_the_tap_neither_run_nor_change() -> None:
    tapped = Tapped(net(), ["first.bn", "second"]).train()
    before = copied(tapped)
    tapped.until(IMAGES, 0)
    changed = {name for name, tensor in copied(tapped).items() if not torch.equal(tensor, before[name])}
    assert changed == {f"model.first.bn.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert tapped.model.count.calls == 0


def test_after_a_part_of_a_pass_the_next_one_is_whole() -> None:
    tapped = Tapped(net(), ["first", "second"]).eval()
    expected = tapped(IMAGES)
    tapped.until(IMAGES, 0)
    logits, features = tapped(IMAGES)
    assert torch.equal(logits, expected.logits)
    assert len(features) == 2


def test_after_a_pass_that_failed_the_next_one_is_whole() -> None:
    tapped = Tapped(net(), ["first", "second"]).eval()
    expected = tapped(IMAGES).logits
    with pytest.raises(RuntimeError):
        tapped.until(torch.zeros(1, 7, 8, 8), 0)
    assert torch.equal(tapped(IMAGES).logits, expected)


def test_a_feature_does_not_outlive_its_last_user() -> None:
    tapped = Tapped(net(), ["first", "second"])
    seen = [weakref.ref(feature) for feature in tapped(IMAGES).features]
    gc.collect()
    assert [reference() for reference in seen] == [None, None]
    part = weakref.ref(tapped.until(IMAGES, 1))
    gc.collect()
    assert part() is None


def in_place() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(108, 5))


def overwritten(tap: str) -> str:
    what = f"taps: '{tap}' is overwritten by a module behind it that works in place"
    return f"{what}; tap that one, or the block around both"


@pytest.mark.parametrize("grad", [True, False])
def test_a_tap_that_a_later_module_overwrites_is_an_error(grad: bool) -> None:
    with torch.set_grad_enabled(grad), pytest.raises(ConfigError) as caught:
        Tapped(in_place(), ["0"])(IMAGES)
    assert str(caught.value) == overwritten("0")


def test_a_tap_behind_the_module_in_place_has_its_value() -> None:
    expected = in_place()[0](IMAGES).relu()
    [feature] = Tapped(in_place(), ["1"])(IMAGES).features
    assert torch.equal(feature, expected)


def test_a_tap_at_which_the_pass_ends_is_not_overwritten() -> None:
    assert torch.equal(Tapped(in_place(), ["0"]).until(IMAGES, 0), in_place()[0](IMAGES))


@pytest.mark.parametrize("tap", ["bn1", "layer1.0.bn1", "layer1.0.bn2"])
def test_an_overwritten_tap_of_a_torchvision_resnet_is_named(tap: str) -> None:
    from torchvision.models import resnet18

    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ConfigError) as caught:
        Tapped(resnet18(), ["layer1.0", tap])(images)
    assert str(caught.value) == overwritten(tap)
    taps = ["relu", "layer1.0.conv2", "layer1.0.relu", "layer1.0", "layer1"]
    assert len(Tapped(resnet18(), taps)(images).features) == len(taps)


def test_a_copy_of_a_tapped_model_taps_itself() -> None:
    tapped = Tapped(net(), ["first"]).eval()
    copy = deepcopy(tapped)
    with torch.no_grad():
        copy.model.first.conv.weight.zero_()
    assert not torch.equal(copy(IMAGES).features[0], tapped(IMAGES).features[0])
    assert torch.equal(tapped(IMAGES).features[0], tapped.model.first(IMAGES))


def test_a_model_counts_images_in_full_and_partial_forwards() -> None:
    tapped = Tapped(net(), ["first"]).eval()
    tapped(IMAGES), tapped(IMAGES[:2]), tapped.until(IMAGES[:3], 0)
    assert tapped.image_count == 6 + 2 + 3


def test_renormalizing_replaces_one_normalization_by_another() -> None:
    pixels = torch.rand(6, 2, 8, 8, dtype=torch.float64)
    (mean, std), (own_mean, own_std) = (([0.2, 0.7], [0.3, 0.1]), ([0.5, 0.45], [0.25, 0.2]))

    def normalized(mean: list[float], std: list[float]) -> Tensor:
        return (pixels - torch.tensor(mean).view(2, 1, 1)) / torch.tensor(std).view(2, 1, 1)

    tapped = Tapped(net().double(), ["first", "second"]).eval()
    renormalized = Renormalized(tapped, (mean, std), (own_mean, own_std)).double()
    expected = tapped(normalized(own_mean, own_std))
    outputs = renormalized(normalized(mean, std))
    torch.testing.assert_close(outputs.logits, expected.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs.features, expected.features, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(renormalized.until(normalized(mean, std), 1), expected.features[1], rtol=1e-5, atol=1e-5)


def test_renormalizing_to_the_same_leaves_the_logits_as_they_are() -> None:
    tapped, normalization = Tapped(net()).eval(), ([0.5, 0.25], [0.25, 0.5])
    assert torch.equal(Renormalized(tapped, normalization, normalization)(IMAGES).logits, tapped(IMAGES).logits)


def test_a_frozen_model_scores_without_gradient_or_change() -> None:
    tapped = Tapped(net(), ["first"])
    tapped(IMAGES).logits.sum().backward()
    assert freeze(tapped) is tapped
    before = copied(tapped)
    assert not tapped(IMAGES).logits.requires_grad
    assert same(copied(tapped), before)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in tapped.parameters())


def test_gradients_reach_the_input_of_a_frozen_model() -> None:
    images = IMAGES.clone().requires_grad_()
    freeze(Tapped(net()))(images).logits.sum().backward()
    assert images.grad is not None
    assert images.grad.any()


def test_a_tap_at_an_input_is_what_the_module_gets() -> None:
    model = net().eval()
    outputs = Tapped(model, ["fc:in", "second.act:in", "first"])(IMAGES)
    before = model.second.bn(model.second.conv(model.first(IMAGES)))
    assert torch.equal(outputs.features[1], before)
    assert torch.equal(outputs.features[0], before.relu().mean((2, 3)))
    assert torch.equal(outputs.features[2], model.first(IMAGES))


def test_the_input_of_a_module_in_place_is_what_it_was() -> None:
    outputs = Tapped(in_place(), ["1:in"])(IMAGES)
    assert torch.equal(outputs.features[0], in_place()[0](IMAGES))
    assert torch.equal(outputs.logits, in_place()(IMAGES))


def test_layers_behind_an_input_tap_are_not_run() -> None:
    model = net()
    feature = Tapped(model, ["count:in"]).until(IMAGES, 0)
    assert (model.count.calls, feature.shape) == (0, (6, 4, 4, 4))


def test_an_added_tap_comes_last_and_is_no_own_tap() -> None:
    model = Tapped(net(), ["second", "first"])
    assert [model.add("fc:in"), model.add("first"), model.add("fc:in")] == [2, 1, 2]
    assert model.taps == ["second", "first"]
    assert [feature.shape[1] for feature in deepcopy(model)(IMAGES).features] == [4, 3, 4]


def test_an_unknown_module_with_an_input_tap_is_named() -> None:
    with pytest.raises(AttributeError, match=r"^no submodule 'fd' \(has: first, "):
        Tapped(net(), ["fd:in"])
