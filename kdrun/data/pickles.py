"""Reads the pickles of CIFAR without running any code in them."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.errors import InputError


def _dtype(code: Any, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"array of {code!r}, uint8 expected")
    return np.dtype("u1")


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # the form in which Python 3 pickles bytes for Python 2


def _array(kind: object, shape: object, code: object) -> np.ndarray:
    """Makes the empty array that the pickle then fills; numpy's own function would make one of any shape."""
    if shape != (0,):
        raise pickle.UnpicklingError(f"array of shape {shape}")
    return np.empty(0, dtype=np.uint8)


class _NoArray:
    """Stands for numpy.ndarray, which a pickle names but need not call."""


class _Unpickler(pickle.Unpickler):
    """Loads uint8 arrays and plain containers only; a pickle with anything else is refused, and not run."""

    allowed = {
        "numpy.core.multiarray._reconstruct": _array,
        "numpy.core.numeric._frombuffer": np.empty(0).__reduce_ex__(5)[0],  # its module depends on numpy's version
        "numpy.ndarray": _NoArray,
        "numpy.dtype": _dtype,
        "_codecs.encode": _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if wanted not in self.allowed:
            raise pickle.UnpicklingError(f"holds {wanted}")
        return self.allowed[wanted]


def _check_memo(content: bytes | bytearray) -> None:
    """Refuses a pickle that files a value under a number beyond its size: Python makes a table of that many places."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "LONG_BINPUT") and int(str(argument)) > len(content):
            raise pickle.UnpicklingError(f"value number {argument}")


def unpickle(content: bytes | bytearray, path: Path) -> dict[bytes, Any]:
    """Returns the dictionary in a CIFAR batch; strings are bytes, as in Python 2.

    Raises:
        InputError: if it is damaged, or holds anything but arrays and plain containers; nothing in it is run.
    """
    try:
        _check_memo(content)
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise any exception
        raise InputError(str(path), f"not a CIFAR batch ({error}); fetch it again") from None
    if not isinstance(loaded, dict):
        raise InputError(str(path), "not a CIFAR batch (no dictionary); fetch it again")
    return {key.encode() if isinstance(key, str) else key: value for key, value in loaded.items()}
