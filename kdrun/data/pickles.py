"""Reads the pickles of CIFAR without running any code in them."""

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
    return text.encode("latin1")  # the form in which Python 3 pickles bytes for Python 2


class _Unpickler(pickle.Unpickler):
    """Loads uint8 arrays and plain containers only; a pickle with anything else is refused, and not run."""

    allowed = {
        "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],  # its module depends on numpy's version
        "numpy.core.numeric._frombuffer": np.empty(0).__reduce_ex__(5)[0],
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": _dtype,
        "_codecs.encode": _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        wanted = f"{module}.{name}".replace("numpy._core.", "numpy.core.")
        if wanted not in self.allowed:
            raise pickle.UnpicklingError(f"holds {wanted}")
        return self.allowed[wanted]


def unpickle(content: bytes, path: Path) -> dict[bytes, Any]:
    """Returns the dictionary in a CIFAR batch; strings are bytes, as in Python 2.

    Raises:
        InputError: if it is damaged, or holds anything but arrays and plain containers; nothing in it is run.
    """
    try:
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise any exception
        raise InputError(str(path), f"not a CIFAR batch ({error}); fetch it again") from None
    if not isinstance(loaded, dict):
        raise InputError(str(path), "not a CIFAR batch (no dictionary); fetch it again")
    return {key.encode() if isinstance(key, str) else key: value for key, value in loaded.items()}
