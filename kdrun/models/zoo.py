"""Any classification model of torchvision, by name."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdrun.models import loading
from kdrun.models.init import he_normal

LOGITS_ONLY: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
"""Arguments with which these nets return only their logits."""


def from_torchvision(
    channels: int,
    classes: int,
    size: int,
    net: str,
    weights: str | None = None,
    small_images: bool = False,
) -> nn.Module:
    """Returns a classification model of torchvision; the dotted path of every submodule can be a tap.

    Nothing is downloaded. Activations do not work in place, so that their inputs can be tapped. The residual
    additions of torchvision still do: tap a block, not the layer before its addition.

    Args:
        channels: channels of the images; if not 3, the first convolution is replaced by a new one.
        classes: number of classes; the model returns (N, classes).
        size: width and height of the images; a batch is (N, channels, size, size).
        net: the name of the model in torchvision, such as ``resnet18``.
        weights: the initial weights: a file (.safetensors, .pt, .pth, .th), or the name of torchvision weights, such
            as ``DEFAULT``, that are in torch's cache. A last layer for another number of classes is not loaded.
        small_images: whether a ResNet gets a 3x3 stem of stride 1 without pooling, instead of a 7x7 one of stride 2.

    Raises:
        ValueError: if there is no such net; if ``small_images`` is set and it is no ResNet; if it does not take
            images of this size; if the named weights do not exist or are not in the cache.
        InputError: if the weight file is unreadable, made for another net, or holds what are no finite floats.
    """
    model = _build(net, classes, size)
    if small_images:
        _shrink_stem(model, net)
    if channels != 3:
        _take_channels(model, channels)
    if weights is not None:
        _fill(model, _find(net, weights), classes)
    _settle(model)
    _try(model, net, channels, size)
    return model


def _build(net: str, classes: int, size: int) -> nn.Module:
    from torchvision import models  # takes 1.5 s, so it is imported only when it is used

    known = models.list_models(module=models)
    if net not in known:
        near = get_close_matches(net, known, 1)
        raise ValueError(f"torchvision has no {net!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    more = {"image_size": size} if net.startswith("vit_") else LOGITS_ONLY.get(net, {})
    try:
        model: nn.Module = models.get_model(net, num_classes=classes, **more)
    except AssertionError as fault:  # a vision transformer counts its patches when it is made
        raise ValueError(f"{net} does not take {size}x{size} images ({fault}): set dataset.pad_to") from fault
    return model


def _shrink_stem(model: nn.Module, net: str) -> None:
    from torchvision.models import ResNet

    if not isinstance(model, ResNet):
        raise ValueError(f"{net} is not a ResNet: only those have a stem for small_images, set small_images=false")
    model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    he_normal(model.conv1)


def _take_channels(model: nn.Module, channels: int) -> None:
    convolutions = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    name, old = next(convolutions)
    form: dict[str, Any] = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding")}
    new = nn.Conv2d(channels, old.out_channels, **form, bias=old.bias is not None)
    he_normal(new)
    model.set_submodule(name, new)


def _find(net: str, weights: str) -> Path:
    from torchvision.models import get_model_weights

    if Path(weights).suffix in loading.SUFFIXES:
        return Path(weights)
    known = get_model_weights(net)
    if weights not in known.__members__:
        raise ValueError(f"weights={weights!r} is no file, and {net} has {', '.join(known.__members__)}")
    url = known[weights].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.is_file():
        raise ValueError(f"weights={weights!r}: nothing is downloaded; put {url} at {path}")
    return path


def _fill(model: nn.Module, path: Path, classes: int) -> None:
    state, own = loading.read(path), model.state_dict()
    head = {
        name: own[name]
        for name in own.keys() & state.keys()
        if own[name].shape[:1] == (classes,) != state[name].shape[:1] and own[name].shape[1:] == state[name].shape[1:]
    }
    model.converted = loading.fill(model, state | head, path, "weights")  # type: ignore[assignment]


def _settle(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    model.channels_last = sum(isinstance(module, nn.Conv2d) for module in model.modules()) > 1


def _try(model: nn.Module, net: str, channels: int, size: int) -> None:
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, size, size))
    except (RuntimeError, AssertionError) as fault:
        why = str(fault).partition("\n")[0]
        raise ValueError(f"{net} does not take {size}x{size} images ({why}): set dataset.pad_to") from fault
    model.train()
