"""Any classification model of torchvision, by name."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdrun.models import loading
from kdrun.models.init import he_normal

ALONE: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
"""What makes these nets return their logits alone."""


def from_torchvision(
    channels: int,
    classes: int,
    size: int,
    net: str,
    weights: str | None = None,
    small_images: bool = False,
) -> nn.Module:
    """Returns a classification model of torchvision, as it is: every dotted path of a submodule can be a tap.

    Nothing is downloaded. Activations do not overwrite their input, so that it can be tapped; torchvision's
    residual additions still do: tap a block, not the layer before its addition.

    Args:
        channels: of the images; other than 3, the first convolution begins anew.
        classes: of the data; the model gives (N, classes).
        size: of the images, which are square; a batch is (N, channels, size, size).
        net: its name in torchvision, such as ``resnet18``.
        weights: to begin with: a file (.safetensors, .pt, .pth, .th), or the name of torchvision's weights, such
            as ``DEFAULT``, that lie in torch's cache. A last layer of other classes begins anew.
        small_images: gives a ResNet a 3x3 stem of stride 1 without pooling, for the 7x7 one of stride 2.

    Raises:
        ValueError: if there is no such net; if it is no ResNet but ``small_images`` is asked for; if it does
            not take images of this size; if the named weights do not exist or are not in the cache.
        InputError: if the file of weights is unreadable or of another net.
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
    from torchvision import models  # costs 1.5 s: only for those who use it

    known = models.list_models(module=models)
    if net not in known:
        near = get_close_matches(net, known, 1)
        raise ValueError(f"torchvision has no {net!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    more = {"image_size": size} if net.startswith("vit_") else ALONE.get(net, {})
    model: nn.Module = models.get_model(net, num_classes=classes, **more)
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
    loading.fill(model, state | head, path, "weights")


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
