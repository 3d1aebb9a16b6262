"""What can go wrong for a user: one line that names the key or the file, and an exit code."""


class KdrunError(Exception):
    """A fault that the user can mend.

    Args:
        where: the key (``method.temperature``) or the file that is at fault.
        what: what is wrong with it and the way out, in one line.
    """

    exit_code = 1

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


class TrainingError(KdrunError):
    """Training failed: a loss that is not finite, or no memory left."""


class ConfigError(KdrunError):
    """A key that does not exist, or a value that it does not take."""

    exit_code = 2


class InputError(KdrunError):
    """A data set or a checkpoint that is missing or unfit."""

    exit_code = 3


class WriteError(KdrunError):
    """A place that cannot be written to."""

    exit_code = 4


class InUseError(KdrunError):
    """A run folder that another process is working in."""

    exit_code = 5


class Interrupted(KdrunError):
    """A signal asked the run to stop; what it had is saved.

    Args:
        signum: the signal's number.
        where: what was being trained.
    """

    def __init__(self, signum: int, where: str) -> None:
        super().__init__(where, "interrupted")
        self.exit_code = 128 + signum
