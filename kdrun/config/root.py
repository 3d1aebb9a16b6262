"""The root of every run's config: its keys, their valid values, and the errors for wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_type_hints

from kdrun.config.suggest import did_you_mean
from kdrun.config.values import Pattern, check_value
from kdrun.errors import ConfigError

GROUPS = ("dataset", "teacher", "student", "method", "optimizer", "schedule", "recipe", "experiment")
"""Groups whose options are chosen by name; ``teacher`` and ``student`` get theirs from a further group, ``model``."""

Seed = Annotated[int, "[0, 4294967295]"]  # the range of numpy; torch accepts more
FilePath = Annotated[str, Pattern(r"[^\0\ud800-\udfff]+", "is not a path")]
Device = Annotated[str, Pattern(r"cpu|cuda(:\d+)?|auto", "is not cpu, cuda, cuda:N or auto")]
Name = Annotated[
    str,
    Pattern(
        r"(?![.-]| )(?!.*\.\.)[\w .=,+@-]{0,99}[\w.=,+@-]",
        "may only hold letters, digits, spaces and _.=,+@-, at most 100, no '..', start with neither '.' nor '-', "
        "and neither start nor end with a space",
    ),
]
TableSize = Annotated[str, Pattern(r"auto|off|\d+(\.\d+)?[KMGT]B", "is not auto, off or a size such as 2GB")]
Each = list[float] | None


@dataclass(kw_only=True)
class TeacherRecipe:
    """How the teacher is trained."""

    epochs: Annotated[int, "[1, 100000]"] = 20
    batch_size: Annotated[int, "[1, 1000000]"] = 64
    stop_at: float | None = None
    optimizer: dict[str, Any]
    schedule: dict[str, Any]


@dataclass(kw_only=True)
class Teacher:
    """The keys of the teacher's node besides those of its model."""

    seed: Seed = 0
    checkpoint: FilePath | None = None
    mean: Each = None
    std: Each = None
    table: TableSize = "auto"
    table_precision: Literal["fp32", "fp16"] = "fp32"
    recipe: dict[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True)
class Root:
    """The keys of a run."""

    dataset: dict[str, Any]
    teacher: dict[str, Any] | None
    student: dict[str, Any]
    method: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    experiment: str | None = None
    claims: dict[str, Any] | None = None
    seed: Seed = 0
    epochs: Annotated[int, "[1, 100000]"] = 20
    batch_size: Annotated[int, "[1, 1000000]"] = 64
    device: Device = "auto"
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    compile: bool = False
    threads: Annotated[int, "[1, 1024]"] = 1
    resume: FilePath | None = None
    out: FilePath = "outputs"
    name: Name | None = None
    trust: list[str] = field(default_factory=list)
    baseline: bool = True
    figures: Literal["auto", True, False] = "auto"
    fast_dev_run: bool = False
    dry_run: bool = False


def check_root(config: Mapping[str, Any]) -> None:
    """Refuses invalid keys and values of the root, the teacher's node and its recipe; does not import torch.

    Raises:
        ConfigError: naming the first key that is unknown, missing, of the wrong type or out of range.
    """
    check_keys(config, Root, "")
    teacher = config["teacher"]
    if teacher is not None:
        check_keys(teacher, Teacher, "teacher", closed=False)
        check_keys(teacher["recipe"], TeacherRecipe, "teacher.recipe")
        check_taps(teacher, "teacher")
    check_taps(config["student"], "student")
    check_names(config)


def check_taps(node: Mapping[str, Any], where: str) -> None:
    """Refuses a model's ``node`` whose taps are not a list of names of submodules.

    Raises:
        ConfigError: naming the key.
    """
    taps = node.get("taps", [])
    if isinstance(taps, str):
        raise ConfigError(f"{where}.taps", f"{taps!r} is not a list; write [{taps}]")
    check_value(taps, list[str], f"{where}.taps")


def check_names(value: Any, where: str = "") -> None:
    """Refuses a node whose name could lead out of a folder: trained models lie in folders of their names.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(value, Mapping):
        if "_target_" in value and value.get("name") is not None:
            check_value(value["name"], Name, f"{where}.name")
        for key, item in value.items():
            check_names(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            check_names(item, f"{where}[{number}]")


def check_keys(node: Mapping[str, Any], schema: type, where: str, closed: bool = True) -> None:
    """Refuses a ``node`` whose keys and values do not fit the fields of ``schema``.

    Args:
        node: the keys and values.
        schema: a dataclass.
        where: the dotted key of ``node``, or "" for the root.
        closed: whether a key that ``schema`` lacks is refused.

    Raises:
        ConfigError: naming the dotted key.
    """
    hints = get_type_hints(schema, include_extras=True)
    places = {key: f"{where}.{key}" if where else key for key in [*hints, *node]}
    for key in node:
        if closed and key not in hints:
            meant = did_you_mean(places[key], [places[known] for known in hints])
            raise ConfigError(places[key], f"unknown key{meant}")
    for key, hint in hints.items():
        if key not in node:
            raise ConfigError(places[key], "missing")
        check_value(node[key], hint, places[key])
