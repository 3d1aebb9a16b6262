"""What was measured of frozen models on images that nothing is trained on, kept for later runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from kdrun.config.values import check_value
from kdrun.errors import ConfigError, InputError, WriteError
from kdrun.store import files
from kdrun.store.format import RECORD_FORMAT
from kdrun.store.model_store import key
from kdrun.train.metrics import TASKS, interval
from kdrun.train.stage import Scores

MEASURES = 1
"""The version of what is measured; raised when a score is added, or is computed in another way."""

MOST_IMAGES = 1_000_000
"""The most images whose predicted classes are kept: what is larger is measured by every run."""


class Evaluation(NamedTuple):
    """What was measured of a model on a split."""

    scores: Scores
    flops: int | None = None  # of one image
    predicted: list[int] | None = None  # the class that the model predicts, by image; None if there are no classes


class Evaluations:
    """Evaluations in ``folder``, each in a sealed file ``NAME-KEY.json``.

    Args:
        folder: the folder of the files; made when the first one is written.
        notice: called with one line where a file cannot be used or written.
    """

    def __init__(self, folder: Path, notice: Callable[[str], None]) -> None:
        self.folder, self.notice = folder, notice

    def get(self, name: str, fields: dict[str, Any], measure: Callable[[], Evaluation]) -> Evaluation:
        """Returns the evaluation that is kept under ``fields``; measures and keeps it if there is none.

        A file that is damaged is replaced, and one that cannot be written costs only the time of the next run.

        Args:
            name: the name of the model.
            fields: everything that the evaluation depends on, among it ``task`` and the numbers of ``images`` and
                ``classes``.
            measure: returns the evaluation.
        """
        path = self.folder / f"{name}-{key(fields)[:12]}.json"
        if path.exists():
            try:
                return read(path, fields)
            except InputError as error:
                self.notice(f"{error}; it is measured anew")
        measured = measure()
        if len(measured.predicted or ()) <= MOST_IMAGES:
            self._keep(path, fields, measured)
        return measured

    def _keep(self, path: Path, fields: dict[str, Any], measured: Evaluation) -> None:
        content = measured._asdict()
        if measured.predicted is not None:
            content["predicted"] = " ".join(map(str, measured.predicted))
        try:
            files.folder(self.folder)
            files.write_json(path, {"format": RECORD_FORMAT, "key": key(fields), "fields": fields, **content})
        except WriteError as error:
            reason = error.what.partition(";")[0]
            self.notice(f"{error.where}: {reason}; the next run measures its scores again")


KINDS = {"fields": dict, "scores": dict, "flops": Annotated[int, "[0, 1e18]"] | None, "predicted": str | None}
"""The fields of a file, and their types."""


def read(path: Path, fields: dict[str, Any]) -> Evaluation:
    """Returns the evaluation in the file at ``path``.

    Raises:
        InputError: if the file is damaged, or is not of ``fields``.
    """
    content = files.read_json(path)
    try:
        for name, kind in KINDS.items():
            check_value(content.get(name), kind, name)
        if key(content["fields"]) != key(fields):
            raise InputError(str(path), "is of other models or images")
        for name in (*(score.name for score in TASKS[fields["task"]]), *content["scores"]):
            check_value(content["scores"].get(name), Annotated[float, interval(name)], f"scores.{name}")
        return Evaluation(content["scores"], content["flops"], classes(content["predicted"], fields))
    except ConfigError as error:
        raise InputError(str(path), f"is damaged ({error})") from error


def classes(text: str | None, fields: dict[str, Any]) -> list[int] | None:
    """Returns the predicted classes in ``text``, one for each image.

    Raises:
        ConfigError: if they are not as many as ``fields`` has images, or one of them is no class.
    """
    if text is None:
        return None
    words = text.split()
    if len(words) != fields["images"] or not all(word.isdecimal() and len(word) <= 7 for word in words):
        raise ConfigError("predicted", f"is not {fields['images']} classes")
    predicted = list(map(int, words))
    if max(predicted, default=0) >= fields["classes"]:
        raise ConfigError("predicted", f"has a class above {fields['classes'] - 1}")
    return predicted
