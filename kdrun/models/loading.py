"""Loads weights into a model: reads them from a file without running code in it, and checks names and shapes."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from kdrun.errors import InputError

SUFFIXES = (".safetensors", ".pt", ".pth", ".th")


def lasting(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns ``state`` without the modules of ``model`` that are ``training_only``: inference does not run them."""
    names = [f"{name}." for name, module in model.named_modules() if getattr(module, "training_only", False)]
    return {name: tensor for name, tensor in state.items() if not name.startswith(tuple(names))}


def read(path: Path) -> dict[str, Tensor]:
    """Returns the weights in ``path``, on the CPU.

    Takes .safetensors, or a PyTorch state_dict (.pt, .pth, .th). The state_dict may be in an entry ``state_dict``,
    ``model`` or ``model_state_dict``, and its keys may begin with ``module.``. Code in the file is never run.

    Raises:
        InputError: if the file is missing, empty, truncated, of another kind, compressed, or holds code.
    """
    if not path.is_file():
        raise InputError(str(path), "no such file")
    if path.suffix not in SUFFIXES:
        raise InputError(str(path), f"is not a checkpoint (takes {', '.join(SUFFIXES)})")
    data = path.read_bytes()
    if not data:
        raise InputError(str(path), "is empty")
    if data.startswith(b"version https://git-lfs"):
        raise InputError(str(path), "is a Git LFS pointer; fetch the real file (git lfs pull)")
    return plain(path, unpack(path, data))


def unpack(path: Path, data: bytes) -> object:
    """Returns the content of a checkpoint, from its bytes."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(data)
        if zipfile.is_zipfile(io.BytesIO(data)):
            refuse_bomb(path, data)
        with warnings.catch_warnings(action="ignore"):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # a damaged or hostile file can raise many kinds of exceptions
        raise InputError(str(path), reason(data, error)) from None


def reason(data: bytes, error: Exception) -> str:
    """Returns why a file could not be loaded, without torch's advice to turn ``weights_only`` off."""
    text = str(error)
    if "Unsupported global" in text or "GLOBAL" in text:
        culprit = text.partition("GLOBAL ")[2].split()[:1]
        return f"refused: it holds code ({culprit[0] if culprit else 'unknown'}), not only weights"
    if data[:2] == b"PK" or any(word in text.lower() for word in ("incomplete", "header length", "too small")):
        return "is damaged or cut short"
    return f"is not a checkpoint (it begins with {data[:12]!r})"


def refuse_bomb(path: Path, data: bytes) -> None:
    """Refuses a zip with compressed members, because it can unpack to a huge size; torch does not compress them."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise InputError(str(path), "is not a checkpoint (its parts are compressed)")


def plain(path: Path, content: object) -> dict[str, Tensor]:
    """Returns the state_dict in ``content``, with ``module.`` removed from its keys."""
    for entry in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(str(path), "holds no state_dict (names and tensors)")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def fill(model: nn.Module, state: dict[str, Tensor], path: Path, key: str) -> None:
    """Loads ``state`` into ``model``; names and shapes must match, but ``training_only`` modules may be missing.

    Raises:
        InputError: if a name is missing or left over, or a shape differs; the message names ``key`` and the first one.
    """
    own = model.state_dict()
    missing, extra = sorted(lasting(model, own).keys() - state.keys()), sorted(state.keys() - own.keys())
    mismatched = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if not (missing or extra or mismatched):
        model.load_state_dict({**own, **state})
        return
    if mismatched and not (missing or extra):
        name = min(mismatched)
        what = f"{name} is {tuple(state[name].shape)} there, {tuple(own[name].shape)} in the model"
    else:
        what = ", ".join(
            f"{len(names)} {word} (first: {names[0]})"
            for word, names in (("missing", missing), ("left over", extra))
            if names
        )
    raise InputError(key, f"{path} was made for another model: {what}")
