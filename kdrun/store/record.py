"""The record of a training: the folder with its config, metrics, figures and checkpoints, enough to resume it."""

from __future__ import annotations

import io
import json
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
from kdrun.errors import InUseError
from kdrun.store import files
from kdrun.train.stage import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor
    from torch.utils.tensorboard import SummaryWriter

Row = dict[str, Any]
Listener = Callable[[str, str, float, Row], None]
"""Called with the names of the training and the stage, the progress of the stage in [0, 1], and a row.

The row is that of an epoch that has just finished, and {} after any other step.
"""


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


def read_rows(metrics: Path) -> list[Row]:
    """Returns the complete rows of a metrics.jsonl; a killed process can leave an incomplete last row."""
    rows: list[Row] = []
    for line in metrics.read_text().splitlines() if metrics.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


class Record:
    """Metrics, TensorBoard events, checkpoints and figures of one training, in one folder.

    ``metrics.jsonl`` is the source of truth: one row per epoch. When a training is resumed, the event file is written
    again from these rows, so that it never shows a point twice.

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
        self.lock = FileLock(folder / ".lock")
        with files.writing(folder):
            try:
                self.lock.acquire(timeout=0)
            except Timeout:  # caught inside `writing`, because it is an OSError too
                raise InUseError(str(folder), "another process is working in this folder; wait for it to end") from None
        files.tidy(folder)
        self.metrics = folder / "metrics.jsonl"
        self.rows = read_rows(self.metrics)
        self.settled = 0  # the number of rows that belong to finished stages
        self._writer: SummaryWriter | None = None

    @property
    def board(self) -> SummaryWriter:
        """The TensorBoard writer; the first access opens it and writes all rows so far."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
            # purge_step=0: a TensorBoard that is open drops the points it has read from the deleted file
            self._writer = SummaryWriter(str(self.folder), purge_step=0 if self.rows else None)
            for number, row in enumerate(self.rows):
                self._show(number, row)
        return self._writer

    def row(self, row: Row) -> None:
        """Adds the row of an epoch to metrics.jsonl and TensorBoard."""
        board = self.board
        self.rows.append(row)
        with files.writing(self.metrics), self.metrics.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._show(len(self.rows) - 1, row)
        board.flush()

    def _show(self, number: int, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)) and name not in ("epoch", "time"):
                self.board.add_scalar(f"{row['stage']}/{name}", value, row["epoch"], walltime=row["time"])

    def rewind(self, rows: int) -> None:
        """Keeps only the first ``rows`` rows: those up to the checkpoint from which a training is resumed."""
        text = "".join(json.dumps(row) + "\n" for row in self.rows[:rows])
        if text == (self.metrics.read_text() if self.metrics.is_file() else ""):
            return
        self.rows = self.rows[:rows]
        files.write(self.metrics, text.encode())
        self.close_board()

    def adopt(self, folder: Path) -> None:
        """Replaces all rows with copies of the rows of the record in ``folder``."""
        self.rewind(0)
        for row in read_rows(folder / "metrics.jsonl"):
            self.row(row)

    def figure(self, name: str, figure: Figure) -> None:
        """Saves ``figure`` as figures/NAME.png and adds it to TensorBoard; slashes in ``name`` become dashes."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120, bbox_inches="tight")
        files.write(self.folder / "figures" / f"{name.replace('/', '-')}.png", buffer.getvalue())
        # add_figure would draw it twice more, which takes most of the time of a small run
        pixels = np.asarray(Image.open(buffer).convert("RGB"))
        self.board.add_image(name, pixels, dataformats="HWC")

    def images(self, name: str, images: Tensor) -> None:
        """Adds ``images``, (N, C, H, W) in [0, 1], to TensorBoard."""
        self.board.add_images(name, images)

    def text(self, name: str, text: str) -> None:
        """Adds ``text`` to TensorBoard as a block of code."""
        self.board.add_text(name, f"```\n{text}\n```")

    def config(self, config: dict[str, Any]) -> None:
        """Saves the whole config as config.yaml."""
        files.write(self.folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)).encode())

    @property
    def facts(self) -> dict[str, Any]:
        """The content of run.json; empty if there is no such file yet."""
        path = self.folder / "run.json"
        return dict(files.read_json(path)) if path.is_file() else {}

    def about(self, **facts: Any) -> None:
        """Adds ``facts`` to run.json."""
        files.write_json(self.folder / "run.json", {**self.facts, **facts})

    def hparams(self, config: dict[str, bool | int | float | str], scores: Scores) -> None:
        """Adds the run's row to TensorBoard's hparams table; ``add_hparams`` would create a sub-run for it."""
        from torch.utils.tensorboard.summary import hparams

        writer = self.board._get_file_writer()  # type: ignore[no-untyped-call]
        for summary in hparams(config, {f"test/{name}": None for name in scores}):  # type: ignore[no-untyped-call]
            writer.add_summary(summary)
        for name, value in scores.items():
            self.board.add_scalar(f"test/{name}", value, 0)

    def method_metrics(self, metrics: Scores) -> None:
        """Adds the metrics of the method, measured on the test images, to TensorBoard."""
        for name, value in metrics.items():
            self.board.add_scalar(f"method/{name}", value, 0)

    def close_board(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self) -> None:
        """Closes the event file and releases the lock of the folder."""
        self.close_board()
        self.lock.release()
