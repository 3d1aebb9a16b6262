"""The record of a training: the folder with its config, metrics, figures and checkpoints, enough to resume it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from PIL import Image

from kdrun import __version__
from kdrun.errors import InputError, InUseError, WriteError
from kdrun.store import files
from kdrun.store.run_folder import ABOUT, CONFIG, recorded_digest, sealed
from kdrun.train.stage import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from kdrun.store.board import Board

Row = dict[str, Any]
Listener = Callable[[str, str, float, Row], None]
"""Called with the names of the training and the stage, the progress of the stage in [0, 1], and a row.

The row is that of an epoch that has just finished, and {} after any other step.
"""


ROWS_BYTES = 256 << 20
"""Largest metrics.jsonl that is read: a row has some hundred bytes."""


def versions() -> dict[str, str]:
    """Returns the versions of Python and the packages that a result depends on, and the working directory's commit."""
    packages = ("torch", "torchvision", "hydra-core", "numpy", "scikit-learn")
    command = ["git", "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git on this machine
        commit = ""
    return {
        "kdrun": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "git_commit": commit or "none",
    }


def text(rows: list[Row]) -> bytes:
    """Returns ``rows`` as the lines of a metrics.jsonl."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def identity(folder: Path) -> tuple[int, int]:
    """Returns the numbers by which the system knows ``folder``; they stay the same where it is moved to."""
    state = os.stat(folder)
    return state.st_dev, state.st_ino


def read_rows(metrics: Path) -> list[Row]:
    """Returns the rows of a metrics.jsonl; an empty list if there is no such file.

    The rows of a finished training are checked against the sha256 in its summary.json or manifest.json. In any other,
    an incomplete last row is left out: a killed process leaves it.

    Raises:
        InputError: if the file cannot be read, was cut short or altered, or holds something other than rows.
    """
    known = recorded_digest(metrics)
    if known is None and not metrics.exists():
        return []
    data = files.read_bytes(metrics, ROWS_BYTES)
    if known is not None and hashlib.sha256(data).hexdigest() != known:
        what = "is damaged, or its run has gone on since (its sha256 is not the recorded one)"
        raise InputError(str(metrics), f"{what}; resume the run to have it written anew")
    whole, _, _ = data.rpartition(b"\n")
    return [parsed(metrics, number, line) for number, line in enumerate(whole.splitlines(), start=1)]


def parsed(metrics: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
        if isinstance(row, dict):
            return row
    except (ValueError, RecursionError):
        pass
    raise InputError(str(metrics), f"is damaged (line {number} is no row); resume the run to have it written anew")


class Record:
    """Metrics, TensorBoard events, checkpoints and figures of one training, in one folder.

    There is one row per epoch. A checkpoint holds the rows so far: when a training is resumed from it,
    ``metrics.jsonl`` and the event file are written again from these rows, so that none is lost and none is repeated.

    Args:
        folder: the folder of the record; created if it does not exist.
        name: the name of the training, such as ``resnet8 by kd``.
        listen: called after every step and epoch; for a progress display.

    Raises:
        InUseError: if another process works in ``folder``.
        WriteError: if ``folder`` cannot be written to.
    """

    def __init__(self, folder: Path, name: str, listen: Listener) -> None:
        self.folder = files.folder(folder)
        self.name, self.listen = name, listen
        self.lock = FileLock(folder / ".lock", fallback_to_soft=False)  # a soft lock would outlive a killed process
        with files.writing(folder):
            try:
                self.lock.acquire(timeout=0)
            except Timeout:  # caught inside `writing`, because it is an OSError too
                raise InUseError(str(folder), "another process is working in this folder; wait for it to end") from None
            self.place = identity(folder)
        files.tidy(folder)
        self.metrics = folder / "metrics.jsonl"
        self.rows: list[Row] = []
        self.settled: list[Row] = []  # the rows of finished stages
        self.origin = ""  # the hash of what the training depends on; set where its journals are made
        self._board: Board | None = None

    def check_place(self) -> None:
        """Refuses to write where the folder is no longer: a write would leave half a record there.

        Raises:
            WriteError: if the folder was moved or removed.
        """
        try:
            moved = identity(self.folder) != self.place
        except OSError:
            moved = True
        if moved:
            what = "was moved or removed while the run was working in it"
            raise WriteError(str(self.folder), f"{what}; put it back and resume it, or start a new run")

    def write(self, name: str, data: bytes) -> None:
        """Writes the file ``name`` of the folder, or of a folder in it."""
        files.write(self.destination(self.folder / name), data)

    def destination(self, path: Path) -> Path:
        """Returns ``path``, a file of the folder or of a folder in it, which is created; refuses as ``check_place``."""
        self.check_place()
        with files.writing(path):
            path.parent.mkdir(exist_ok=True)  # without its parents: they may be moved away after the check
        return path

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Writes the JSON file ``name`` of the folder."""
        self.check_place()
        files.write_json(self.folder / name, content)

    @property
    def board(self) -> Board:
        """The TensorBoard writer; the first access opens it and writes all rows so far."""
        if self._board is None:
            from kdrun.store.board import PATTERN, Board

            self.check_place()
            with files.writing(self.folder):
                for old in self.folder.glob(PATTERN):
                    old.unlink()
            self._board = Board(self.folder, again=bool(self.rows))
            for row in self.rows:
                self._show(row)
        return self._board

    def row(self, row: Row) -> None:
        """Adds the row of an epoch to metrics.jsonl and TensorBoard."""
        board = self.board
        self.check_place()
        with files.writing(self.metrics), self.metrics.open("ab") as file:
            file.write(text([row]))
        self.rows.append(row)
        self._show(row)
        board.flush()

    def _show(self, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)) and name not in ("epoch", "time"):
                self.board.add_scalar(f"{row['stage']}/{name}", value, row["epoch"], walltime=row["time"])

    def restore(self, rows: list[Row]) -> None:
        """Replaces all rows: by those of the checkpoint from which a training is resumed, whatever the files hold."""
        self.check_place()
        self.rows = list(rows)
        if not (rows or self.metrics.exists()):
            return
        if not self.metrics.is_file() or self.metrics.read_bytes() != text(rows):
            files.write(self.metrics, text(rows))
            self.close_board()

    def adopt(self, folder: Path) -> None:
        """Replaces all rows with copies of the rows of the record in ``folder``."""
        self.restore(read_rows(folder / "metrics.jsonl"))
        self.board.flush()

    def digests(self) -> dict[str, str]:
        """Returns the sha256 of metrics.jsonl, and of the weights and figures in the folder, by name."""
        paths = [*self.folder.glob("*.safetensors"), *self.folder.glob("figures/*.png")]
        known = {path.relative_to(self.folder).as_posix(): files.digest(path) for path in sorted(paths)}
        return {self.metrics.name: hashlib.sha256(text(self.rows)).hexdigest(), **known}

    def figure(self, name: str, figure: Figure) -> None:
        """Saves ``figure`` as figures/NAME.png and adds it to TensorBoard; slashes in ``name`` become dashes."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
        self.write(f"figures/{name.replace('/', '-')}.png", buffer.getvalue())
        # add_figure would draw it twice more, which takes most of the time of a small run
        pixels = np.asarray(Image.open(buffer).convert("RGB"))
        self.board.add_image(name, pixels, dataformats="HWC")

    def images(self, name: str, images: Tensor) -> None:
        """Adds ``images``, (N, C, H, W) in [0, 1], to TensorBoard."""
        self.board.add_images(name, images)

    def text(self, name: str, content: str) -> None:
        """Adds ``content`` to TensorBoard as a block of code."""
        self.board.add_text(name, f"```\n{content}\n```")

    def config(self, config: dict[str, Any]) -> None:
        """Saves the whole config as config.yaml."""
        self.write(CONFIG, sealed(OmegaConf.to_yaml(OmegaConf.create(config))))

    @property
    def facts(self) -> dict[str, Any]:
        """The content of run.json; empty if there is no such file yet."""
        path = self.folder / ABOUT
        return files.read_json(path) if path.is_file() else {}

    def about(self, **facts: Any) -> None:
        """Adds ``facts`` to run.json."""
        self.write_json(ABOUT, {**self.facts, **facts})

    def hparams(self, config: dict[str, bool | int | float | str], scores: Scores) -> None:
        """Adds the run's row to TensorBoard's hparams table; ``add_hparams`` would create a sub-run for it."""
        from torch.utils.tensorboard.summary import hparams

        writer = self.board._get_file_writer()
        for summary in hparams(config, {f"test/{name}": None for name in scores}):  # type: ignore[no-untyped-call]
            writer.add_summary(summary)
        for name, value in scores.items():
            self.board.add_scalar(f"test/{name}", value, 0)

    def method_metrics(self, metrics: Scores) -> None:
        """Adds the metrics of the method, measured on the test images, to TensorBoard."""
        for name, value in metrics.items():
            self.board.add_scalar(f"method/{name}", value, 0)

    def close_board(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None

    def close(self) -> None:
        """Closes the event file and releases the lock of the folder."""
        self.close_board()
        self.lock.release()
