"""CIFAR's pickles, read without running what is in them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from kdrun.errors import InputError


def _dtype(code: Any, align: bool = False, copy: bool = False) -> np.dtype[Any]:
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"array of {code!r}, uint8 expected")
    return np.dtype("u1")


def _encode(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how pickles of Python 3 write bytes for Python 2


class _Unpickler(pickle.Unpickler):
    """Knows uint8 arrays and plain containers; a pickle that asks for anything else is refused, not run."""

    allowed = {
        "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],  # wherever this numpy keeps it
        "numpy.core.numeric._frombuffer": np.empty(0).__reduce_ex__(5)[0],
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": _dtype,
        "_codecs.encode": _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if asked not in self.allowed:
            raise pickle.UnpicklingError(f"asks for {asked}")
        return self.allowed[asked]


def unpickle(content: bytes, path: Path) -> dict[bytes, Any]:
    """Returns the dictionary in a CIFAR batch; its text is bytes, as it was in Python 2.

    Raises:
        InputError: if it is damaged, or asks for more than arrays; nothing of it is run.
    """
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything at all
        raise InputError(str(path), f"not a CIFAR batch ({error}); fetch it again") from None
    if not isinstance(found, dict):
        raise InputError(str(path), "not a CIFAR batch (no dictionary); fetch it again")
    return {key.encode() if isinstance(key, str) else key: value for key, value in found.items()}
