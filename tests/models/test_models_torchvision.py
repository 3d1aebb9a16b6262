"""Any classification model of torchvision, by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdrun.errors import InputError
from kdrun.models.zoo import from_torchvision
from kdrun.train.taps import Tapped


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def save(model: nn.Module, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return path


def test_a_dotted_path_is_a_tap() -> None:
    model = from_torchvision(3, 7, 32, "mobilenet_v3_small")
    logits, (feature,) = Tapped(model, ["features.3.block.1"])(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 7)
    assert feature.shape[:2] == (2, 88)


@pytest.mark.parametrize("net", ["squeezenet1_1", "shufflenet_v2_x0_5"])
def test_no_activation_writes_into_a_tapped_feature(net: str) -> None:
    model = from_torchvision(3, 7, 32, net)
    taps = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    captured: dict[str, torch.Tensor] = {}
    for tap in taps:
        model.get_submodule(tap).register_forward_hook(
            lambda module, args, output, tap=tap: captured.update({tap: output.clone()})
        )
    features = Tapped(model, taps)(torch.randn(2, 3, 32, 32)).features
    assert [tap for tap, feature in zip(taps, features, strict=True) if not torch.equal(feature, captured[tap])] == []


def test_a_stem_for_small_images_keeps_their_size() -> None:
    model = from_torchvision(1, 7, 8, "resnet18", small_images=True)
    feature = Tapped(model, ["layer1"])(torch.randn(2, 1, 8, 8)).features[0]
    assert feature.shape == (2, 64, 8, 8)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_may_have_any_number_of_channels(channels: int) -> None:
    assert from_torchvision(channels, 7, 32, "squeezenet1_1")(torch.randn(2, channels, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("net", "small_images", "what"),
    [
        ("resnet81", False, "did you mean 'resnet18'"),
        ("squeezenet1_1", True, "small_images=false"),
        ("alexnet", False, "does not take 8x8 images.*dataset.pad_to"),
        ("densenet121", False, "does not take 8x8 images.*dataset.pad_to"),
    ],
)
def test_a_misfit_says_the_way_out(net: str, small_images: bool, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        from_torchvision(3, 7, 8, net, small_images=small_images)


def test_weights_from_a_file_give_the_same_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved = from_torchvision(3, 7, 32, "shufflenet_v2_x0_5").eval()
    path = save(saved, tmp_path / "mine.pt")
    torch.manual_seed(1)
    loaded = from_torchvision(3, 7, 32, "shufflenet_v2_x0_5", weights=str(path)).eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(saved(images), loaded(images))


@pytest.mark.parametrize("net", ["shufflenet_v2_x0_5", "squeezenet1_1"])
def test_only_the_last_layer_begins_anew_for_other_classes(net: str, tmp_path: Path) -> None:
    saved = from_torchvision(3, 7, 32, net)
    path = save(saved, tmp_path / "mine.pt")
    loaded = from_torchvision(3, 5, 32, net, weights=str(path)).state_dict()
    differing = [name for name, tensor in saved.state_dict().items() if not torch.equal(tensor, loaded[name])]
    head = {"shufflenet_v2_x0_5": "fc", "squeezenet1_1": "classifier.1"}[net]
    assert differing == [f"{head}.weight", f"{head}.bias"]


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    path = save(nn.Linear(2, 2), tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"made for another model"):
        from_torchvision(3, 7, 32, "shufflenet_v2_x0_5", weights=str(path))


def test_named_weights_are_never_downloaded(cache: Path) -> None:
    with pytest.raises(ValueError, match=rf"nothing is downloaded; put https://\S+ at {cache}"):
        from_torchvision(3, 7, 32, "shufflenet_v2_x0_5", weights="DEFAULT")


def test_named_weights_are_taken_from_the_cache(cache: Path) -> None:
    saved = from_torchvision(3, 1000, 32, "shufflenet_v2_x0_5")
    save(saved, cache / "shufflenetv2_x0.5-f707e7126e.pth")
    loaded = from_torchvision(3, 7, 32, "shufflenet_v2_x0_5", weights="DEFAULT").state_dict()
    assert all(
        torch.equal(tensor, loaded[name]) for name, tensor in saved.state_dict().items() if not name.startswith("fc")
    )


def test_unknown_named_weights_list_the_known() -> None:
    with pytest.raises(ValueError, match="IMAGENET1K_V1"):
        from_torchvision(3, 7, 32, "shufflenet_v2_x0_5", weights="IMAGENET1K_V9")


def test_weights_that_fit_no_stem_for_small_images_are_refused(tmp_path: Path) -> None:
    path = save(from_torchvision(3, 7, 32, "resnet18"), tmp_path / "large_stem.pt")
    with pytest.raises(InputError, match=r"conv1\.weight"):
        from_torchvision(3, 7, 32, "resnet18", weights=str(path), small_images=True)


def test_a_size_that_no_patches_fill_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"^vit_b_16 does not take 8x8 images \(.*patch.*\): set dataset.pad_to$"):
        from_torchvision(1, 10, 8, "vit_b_16")
