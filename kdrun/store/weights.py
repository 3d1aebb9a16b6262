"""Weights of trained models on disk, as safetensors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from kdrun.models.loading import lasting
from kdrun.store import files


def write(path: Path, model: nn.Module) -> str:
    """Writes the weights and buffers of ``model`` as safetensors; returns the file's sha256."""
    return write_state(path, lasting(model, model.state_dict()))


def digest(state: dict[str, Tensor], text: str) -> str:
    """Returns the sha256 of ``text`` and of all bytes of ``state``, in hex."""
    hashed = hashlib.sha256(text.encode())
    for name, tensor in state.items():
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def write_state(path: Path, state: dict[str, Tensor]) -> str:
    """Writes ``state`` as safetensors; returns the file's sha256."""
    # clones, because safetensors refuses tensors that share memory, such as tied weights
    own = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    files.write(path, safetensors.torch.save(own))
    return files.digest(path)
