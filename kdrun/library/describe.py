"""The pieces of a training: whether they fit, and what those of the library are in plain values."""

from __future__ import annotations

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdrun.config.values import show
from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError, InputError
from kdrun.methods.base import Method
from kdrun.store import files
from kdrun.train.taps import Renormalized, Tapped


def check_fit(exp: Experiment, method: Method, teacher: nn.Module | None) -> None:
    """Refuses a student, data, settings and a method that do not fit together.

    Raises:
        ConfigError: naming the piece.
    """
    source, name = exp.data.source, type(method).__name__
    if method.task != source.task:
        raise ConfigError("method", f"{name} is for {method.task}, the data are for {source.task}")
    if method.needs_teacher and teacher is None:
        raise ConfigError("teacher", f"{name} needs one")
    if frozen := [name for name, weight in exp.student.model.named_parameters() if not weight.requires_grad]:
        raise ConfigError("student", f"{frozen[0]} is frozen; call requires_grad_(True) on what has been a teacher")
    check_shape(exp, exp.student, "student")
    exp.stream("distill", exp.recipe.batch_size)  # refuses a batch of more images than there are


def check_shape(exp: Experiment, model: Tapped | Renormalized, role: str) -> None:
    """Refuses a ``model`` that does not take the images, or gives another number of classes.

    Raises:
        ConfigError: naming its ``role``.
    """
    images, classes = next(exp.batches("val")).images[:2], exp.data.source.classes
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(images).logits.shape)
    except (RuntimeError, ValueError) as fault:
        why = str(fault).partition("\n")[0]
        raise ConfigError(role, f"does not take images {tuple(images.shape)}: {why}") from fault
    if exp.data.source.task == "classification" and shape != (len(images), classes):
        raise ConfigError(role, f"gives {shape} for {len(images)} images of {classes} classes")


def pieces(exp: Experiment, method: Method) -> dict[str, Any]:
    """Returns the config that stands in the record of ``exp``."""
    plan, teacher = exp.plan, exp.teacher
    return {
        "dataset": described(exp.data.source),
        "teacher": {"name": teacher.name} if teacher else None,
        "student": {"name": named(exp.student)},
        "method": described(method),
        **plan.node,
        "seed": plan.seed,
        "precision": exp.runtime.precision,
        "claims": None,
    }


def fields_of(exp: Experiment, method: Method) -> dict[str, Any]:
    """Returns all that the result of ``exp`` depends on, but for the weights that the student begins with."""
    student = exp.student
    shapes = {name: tuple(value.shape) for name, value in student.state_dict().items()}
    node = {"digest": digest({}, repr((student, student.taps, shapes)))}
    found = exp.fields(node, described(method), exp.teacher, exp.plan)
    return dict(json.loads(json.dumps(found)))  # tuples become the lists that they are once read again


def refuse_another(folder: Path, fields: dict[str, Any]) -> None:
    """Refuses a ``folder`` whose record is of a training with other ``fields``; more epochs are the same one.

    Raises:
        InputError: naming what differs first.
    """
    path = folder / "run.json"
    there = files.read_json(path).get("fields", {}) if path.is_file() else fields
    for key, value in fields.items():
        old = there.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            odd = [part for part in value if value[part] != old.get(part) and not grown(part, old, value)]
            what = [f"{key}.{part} was {show(old.get(part))}, now {show(value[part])}" for part in odd]
        else:
            what = [] if value == old else [f"another {key}"]
        if what:
            raise InputError(str(folder), f"holds another training ({what[0]}); choose another folder")


def grown(part: str, old: dict[str, Any], new: dict[str, Any]) -> bool:
    return part == "epochs" and part in old and bool(old[part] < new[part])


def described(thing: Any) -> dict[str, Any]:
    """Returns the class of ``thing`` and those of its attributes that are plain values; a function by its name."""
    if isinstance(thing, partial):
        return {**described(thing.func), "args": repr(thing.args), **thing.keywords}
    made = thing if hasattr(thing, "__qualname__") else type(thing)
    own = {} if made is thing else vars(thing)
    values = {key: value for key, value in own.items() if key[0] != "_" and key != "training" and is_plain(value)}
    return {"name": made.__name__, "class": f"{made.__module__}.{made.__qualname__}", **values}


def is_plain(value: Any) -> bool:
    """Whether ``value`` can be written down as JSON."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def digest(state: dict[str, Tensor], text: str) -> str:
    """Returns the sha256 of ``text`` and of all bytes of ``state``, in hex."""
    seen = hashlib.sha256(text.encode())
    for name, tensor in state.items():
        seen.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        seen.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()


def named(model: Tapped | Renormalized) -> str:
    """Returns the name of the class of what is wrapped."""
    inner = model.model
    return type(inner.model if isinstance(inner, Tapped) else inner).__name__
