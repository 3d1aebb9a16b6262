"""Errors that a user can fix: each has an exit code and one line that names the key or the file."""

import errno
import re


def printable(text: str) -> str:
    r"""Returns ``text`` with every character that cannot be seen as an escape, such as ``\x1b`` or ``\u202e``.

    These are control characters, line ends among them, marks that turn the direction of writing, and halves of
    characters. A terminal obeys them: a name could rename its window or hide the line above.
    """
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


MEMORY = re.compile(
    "alloc_cpu|out of memory|not enough memory|can't allocate memory|cannot allocate memory|bad_alloc", re.I
)
"""What torch and the system say where memory is short, beside errors of a kind of their own."""


def lacks_memory(error: BaseException) -> bool:
    """Returns whether ``error`` says that memory is short, on any device; torch says so in a RuntimeError."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and bool(MEMORY.search(str(error)))


class KdrunError(Exception):
    """An error that the user can fix.

    Args:
        where: the key (``method.temperature``) or the file with the error.
        what: the error and the way out, in one line.
    """

    exit_code = 1

    def __init__(self, where: str, what: str) -> None:
        self.where, self.what = printable(where), what
        super().__init__(printable(f"{where}: {what}"))


class TrainingError(KdrunError):
    """Training failed: a loss or a weight is not finite, or there is not enough memory."""


class ConfigError(KdrunError):
    """A key does not exist, or does not take the value."""

    exit_code = 2


class InputError(KdrunError):
    """A data set or a checkpoint is missing or cannot be used."""

    exit_code = 3


class WriteError(KdrunError):
    """A file or a folder cannot be written to."""

    exit_code = 4


class InUseError(KdrunError):
    """Another process is working in the run folder."""

    exit_code = 5


class Interrupted(KdrunError):
    """A signal stopped the run; its state is saved.

    Args:
        signum: the number of the signal.
        where: what the run was doing.
    """

    def __init__(self, signum: int, where: str) -> None:
        super().__init__(where, "interrupted")
        self.exit_code = 128 + signum
