"""The event file of TensorBoard, written by the thread that trains."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.writer import FileWriter, SummaryWriter

from kdrun.store import files

PATTERN = "events.out.tfevents.*"


class EventFile:
    """An event file that is open for writing.

    TensorBoard's own writer does this in a thread of its own, which prints a traceback where the disk is full.

    Args:
        folder: the folder of the file.

    Raises:
        WriteError: here and in ``add_event``, if the file cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / PATTERN.replace("*", f"{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}")
        with files.writing(self.path):
            self.handle: int | None = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add_event(self, event: Event) -> None:
        RecordWriter(self).write(event.SerializeToString())

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        with files.writing(self.path):
            while rest and self.handle is not None:
                rest = rest[os.write(self.handle, rest) :]

    def get_logdir(self) -> str:
        return str(self.folder)

    def flush(self) -> None:
        """Does nothing: every event is written at once."""

    def close(self) -> None:
        if self.handle is not None:
            os.close(self.handle)
            self.handle = None


class Events(FileWriter):
    """Torch's writer of events, without its constructor, which starts TensorBoard's thread."""

    def __init__(self, folder: Path) -> None:
        self.event_writer = EventFile(folder)


class Board(SummaryWriter):
    """Adds scalars, images and texts to the event file in ``folder``.

    Args:
        folder: the folder of the file.
        again: whether an event file of this folder was there before; a TensorBoard that is open then drops its points.

    Raises:
        WriteError: here and in all that adds something, if the file cannot be written.
    """

    file_writer: Any
    all_writers: Any

    def __init__(self, folder: Path, again: bool) -> None:
        self.folder = folder
        super().__init__(str(folder), purge_step=0 if again else None)

    def _get_file_writer(self) -> Any:
        if self.file_writer is None:
            self.file_writer = Events(self.folder)
            self.all_writers = {str(self.folder): self.file_writer}
            if self.purge_step is not None:
                start = SessionLog(status=SessionLog.START)
                for event in (Event(step=0, file_version="brain.Event:2"), Event(step=0, session_log=start)):
                    self.file_writer.add_event(event)
        return self.file_writer
