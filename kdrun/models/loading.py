"""Loads weights into a model: reads them from a file without running code in it, and checks that they fit."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from kdrun.errors import InputError
from kdrun.models import torchfile

SUFFIXES = (".safetensors", ".pt", ".pth", ".th")

LFS = b"version https://git-lfs"


def lasting(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns ``state`` without the modules of ``model`` that are ``training_only``: inference does not run them."""
    names = [f"{name}." for name, module in model.named_modules() if getattr(module, "training_only", False)]
    return {name: tensor for name, tensor in state.items() if not name.startswith(tuple(names))}


def read(path: Path) -> dict[str, Tensor]:
    """Returns the weights in ``path``, on the CPU; the file is mapped, so that nothing is read before it is used.

    Takes .safetensors, or a PyTorch state_dict (.pt, .pth, .th). The state_dict may be in an entry ``state_dict``,
    ``model`` or ``model_state_dict``, and its keys may begin with ``module.``. Code in the file is never run.

    Raises:
        InputError: if the file is missing, empty, truncated, of another kind, compressed, asks for more memory than it
            has bytes, or holds code.
    """
    if not path.is_file():
        raise InputError(str(path), "no such file")
    if path.suffix not in SUFFIXES:
        raise InputError(str(path), f"is not a checkpoint (takes {', '.join(SUFFIXES)})")
    try:
        with path.open("rb") as file:
            head = file.read(len(LFS))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    if not head:
        raise InputError(str(path), "is empty")
    if head == LFS:
        raise InputError(str(path), "is a Git LFS pointer; fetch the real file (git lfs pull)")
    return plain(path, unpack(path, head))


def unpack(path: Path, head: bytes) -> object:
    """Returns the content of a checkpoint; ``head`` is its beginning, for the error."""
    try:
        if path.suffix == ".safetensors":
            return _mapped(path)
        with path.open("rb") as file:
            torchfile.check(file, str(path))
        with warnings.catch_warnings(action="ignore"):
            mapped = head.startswith(torchfile.ZIP)  # torch does not map the older format
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except InputError:
        raise
    except Exception as error:  # a damaged or hostile file can raise many kinds of exceptions
        for number in (errno.EMFILE, errno.ENFILE):  # of the system, not of the content
            if os.strerror(number) in str(error):
                what = f"cannot be read ({os.strerror(number)}); raise the limit on open files (ulimit -n)"
                raise InputError(str(path), what) from None
        raise InputError(str(path), reason(head, error)) from None


def _mapped(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        if len(names) > torchfile.MOST:
            raise InputError(str(path), f"holds {len(names)} tensors; {torchfile.MOST} are the most that are read")
        return {name: file.get_tensor(name) for name in names}


def reason(head: bytes, error: Exception) -> str:
    """Returns why a file could not be loaded, without torch's advice to turn ``weights_only`` off."""
    text = str(error)
    if "Unsupported global" in text or "GLOBAL" in text:
        culprit = text.partition("GLOBAL ")[2].split()[:1]
        return f"refused: it holds code ({culprit[0] if culprit else 'unknown'}), not only weights"
    if head[:2] == b"PK" or any(word in text.lower() for word in ("incomplete", "header length", "too small")):
        return "is damaged or cut short"
    return f"is not a checkpoint (it begins with {head[:12]!r})"


def plain(path: Path, content: object) -> dict[str, Tensor]:
    """Returns the state_dict in ``content``, with ``module.`` removed from its keys.

    Raises:
        InputError: if it is none, or one of its tensors is sparse, quantized or without values.
    """
    for entry in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(str(path), "holds no state_dict (names and tensors)")
    for name, tensor in content.items():
        if kind := _without_values(tensor):
            raise InputError(str(path), f"{name} is {kind}, weights are dense numbers; save it as such")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def fill(model: nn.Module, state: dict[str, Tensor], path: Path, key: str) -> str:
    """Loads ``state`` into ``model``; names and shapes must match, but ``training_only`` modules may be missing.

    Returns:
        The types of ``state`` that were converted to those of the model, as ``float16 as float32``; mostly empty.

    Raises:
        InputError: if a name is missing or left over, a shape differs, or a tensor is of another kind or not finite;
            the message names ``key``, the file and the first one.
    """
    own = model.state_dict()
    missing, extra = sorted(lasting(model, own).keys() - state.keys()), sorted(state.keys() - own.keys())
    mismatched = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or extra:
        what = ", ".join(
            f"{len(names)} {word} (first: {names[0][:100]})"
            for word, names in (("missing", missing), ("left over", extra))
            if names
        )
        raise InputError(key, f"{path} was made for another model: {what}")
    if mismatched:
        name = min(mismatched)
        what = f"{name} is {tuple(state[name].shape)} there, {tuple(own[name].shape)} in the model"
        raise InputError(key, f"{path} was made for another model: {what}")
    for name in sorted(state):
        if unfit := _unfit(state[name], own[name]):
            raise InputError(key, f"{path}: {name} {unfit}; use another file")
    model.load_state_dict({**own, **state})
    return ", ".join(sorted(set(_converted(state, own))))


def _without_values(tensor: Tensor) -> str:
    """Returns the kind of a tensor that is not simply its numbers; empty for a dense one."""
    if tensor.is_quantized or tensor.is_nested:
        return "quantized" if tensor.is_quantized else "nested"
    if tensor.layout != torch.strided:
        return "sparse"
    return "" if tensor.device.type == "cpu" else f"on the device {tensor.device.type}"


def _unfit(tensor: Tensor, own: Tensor) -> str:
    """Returns what forbids to copy ``tensor`` to ``own``; empty if nothing does."""
    if _kind(tensor) != _kind(own):
        return f"is {_type(tensor)} there, {_type(own)} in the model"
    if own.is_floating_point() and not torch.isfinite(tensor.to(own.dtype)).all():
        return "is not finite"
    return ""


def _kind(tensor: Tensor) -> str:
    if tensor.is_floating_point() or tensor.is_complex():
        return "complex" if tensor.is_complex() else "float"
    return "bool" if tensor.dtype == torch.bool else "integer"


def _converted(state: dict[str, Tensor], own: dict[str, Tensor]) -> Iterator[str]:
    for name, tensor in state.items():
        if tensor.is_floating_point() and tensor.dtype != own[name].dtype:
            yield f"{_type(tensor)} as {_type(own[name])}"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
