"""Checks the parts of a training with the library, and describes them as plain values for the record."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
from torch import nn

from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.base import AnyMethod
from kdrun.store import weights
from kdrun.train.taps import Renormalized, Tapped


def check_fit(exp: Experiment, method: AnyMethod, teacher: nn.Module | None) -> None:
    """Checks that student, teacher, data, settings and method fit together.

    Raises:
        ConfigError: naming the part that does not fit.
    """
    source, name = exp.data.source, type(method).__name__
    if method.task != source.task:
        raise ConfigError("method", f"{name} is for {method.task}, the data are for {source.task}")
    if method.needs_teacher and teacher is None:
        raise ConfigError("teacher", f"{name} needs one")
    if frozen := [name for name, weight in exp.student.model.named_parameters() if not weight.requires_grad]:
        raise ConfigError("student", f"{frozen[0]} is frozen; call requires_grad_(True) on a model that was a teacher")
    check_shape(exp, exp.student, "student")
    exp.stream("distill", exp.recipe.batch_size)  # raises if a batch is larger than the training split


def check_shape(exp: Experiment, model: Tapped | Renormalized, role: str) -> None:
    """Checks that ``model`` takes the images and returns logits of the right shape.

    Raises:
        ConfigError: naming its ``role``, if it does not.
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


def pieces(exp: Experiment, method: AnyMethod) -> dict[str, Any]:
    """Returns the config for the record of ``exp``."""
    plan, teachers = exp.plan, exp.teachers
    return {
        "dataset": described(exp.data.source),
        "teacher": {"name": teachers[0].name} if teachers else None,
        "student": {"name": class_name(exp.student)},
        "method": described(method),
        **plan.node,
        "seed": plan.seed,
        "precision": exp.runtime.precision,
        "claims": None,
    }


def fields_of(exp: Experiment, method: AnyMethod) -> dict[str, Any]:
    """Returns everything that the result of ``exp`` depends on, except the initial weights of the student."""
    student = exp.student
    shapes = {name: tuple(value.shape) for name, value in student.state_dict().items()}
    node = {"digest": weights.digest({}, repr((student, student.taps, shapes)))}
    fields = exp.key_fields(node, described(method), exp.teachers[0] if exp.teachers else None, exp.plan)
    return dict(json.loads(json.dumps(fields)))  # tuples become lists, as they will be in run.json


def described(thing: Any) -> dict[str, Any]:
    """Returns the class of an object and its attributes that are plain values; for a function, its name."""
    if isinstance(thing, partial):
        return {**described(thing.func), "args": repr(thing.args), **thing.keywords}
    cls = thing if hasattr(thing, "__qualname__") else type(thing)
    own = {} if cls is thing else vars(thing)
    values = {key: value for key, value in own.items() if key[0] != "_" and key != "training" and is_plain(value)}
    return {"name": cls.__name__, "class": f"{cls.__module__}.{cls.__qualname__}", **values}


def is_plain(value: Any) -> bool:
    """Whether ``value`` can be written as JSON."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def class_name(model: Tapped | Renormalized) -> str:
    """Returns the class name of the wrapped model."""
    inner = model.model
    return type(inner.model if isinstance(inner, Tapped) else inner).__name__
