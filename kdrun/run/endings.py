"""What kdrun says where the system refuses it something: memory, disk, open files. It needs no torch."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from kdrun.errors import KdrunError, TrainingError, WriteError, lacks_memory
from kdrun.store.files import WAYS_OUT

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
"""What the system says where a disk takes nothing more."""


def explanation(error: BaseException, folder: Path, too_large: KdrunError | None = None) -> BaseException:
    """Returns the error of one line that says what ``error`` means; ``error`` itself if it has no such meaning.

    Args:
        error: the error that ended the command.
        folder: the folder of the run or the working directory, named where the system names no file.
        too_large: the error to return where memory is short.
    """
    if isinstance(error, KdrunError):
        return error
    if lacks_memory(error):
        return too_large or TrainingError(str(folder), "needs more memory than there is")
    for number in (errno.EMFILE, errno.ENFILE):  # also in an ImportError, of a library that cannot be opened
        if os.strerror(number) in str(error):
            return TrainingError(str(folder), f"{os.strerror(number).lower()}; {WAYS_OUT[number]}")
    if isinstance(error, OSError) and error.errno in FULL:
        where = error.filename if isinstance(error.filename, str) else folder
        return WriteError(str(where), f"cannot be written ({error.strerror}); free some space, or choose another out=")
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes):
        what = f"cannot be used ({error.strerror}); if it was moved or removed put it back, or choose another out="
        return WriteError(os.fsdecode(error.filename), what)
    return error
