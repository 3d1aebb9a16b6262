"""What holds for every method that has a file in conf/method."""

from __future__ import annotations

import ast
import inspect
import math
import pickle
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, cast, get_args, get_origin

import pytest
import torch
from tiny import COMPOSER, Memory, assembled, config, copied, experiment, same
from torch import Tensor, nn

from kdrun.config.build import Builder, hints_of
from kdrun.config.places import CONF
from kdrun.config.values import INTERVAL
from kdrun.core.models import reads
from kdrun.core.rehearsal import Rehearsal
from kdrun.errors import ConfigError, Interrupted
from kdrun.methods.base import AnyMethod, Method, Teacherless
from kdrun.store.checkpoint import journals
from kdrun.store.record import Record
from kdrun.train import loop as trainer
from kdrun.train.stage import Batch, Outputs
from kdrun.train.taps import Tapped

METHODS = COMPOSER.options.names("method")
NODES = {name: COMPOSER.compose([f"method={name}"])["method"] for name in METHODS}

DATA = {
    "classification": ("dataset=synthetic", "dataset.train_count=40"),
    "translation": ("dataset=synthetic_pairs", "dataset.train_count=40", "dataset.size=64"),
}
NETS = ("teacher=resnet8", "student=resnet8")
"""With BatchNorm, which shows who counts a batch that he should not."""

SHORT = ("batch_size=8", "teacher.recipe.batch_size=8", "fast_dev_run=true")


@dataclass
class Training:
    """Two batches of eight of every stage, and what they did."""

    student: dict[str, Tensor]
    rows: list[dict[str, Any]]
    teacher: tuple[dict[str, Tensor], dict[str, Tensor]]
    idle: list[str]
    """Parameters that no stage has sent a gradient."""


def class_of(name: str) -> type[AnyMethod]:
    return cast(type[AnyMethod], Builder().target(NODES[name], "method"))


def arguments(name: str) -> dict[str, Any]:
    """What the method's YAML sets, as arguments of its class."""
    return {key: value for key, value in NODES[name].items() if key not in ("name", "_target_")}


@cache
def overrides(name: str) -> list[str]:
    """What makes a tiny run of the method; where ``NETS`` do not fit, with those that its header's command names."""
    method = class_of(name)
    words = [f"method={name}", *NETS, *DATA[method.task], *SHORT]
    try:
        assembled(config(Path("nowhere"), *words)).summaries()
    except ConfigError:
        header = (CONF / "method" / f"{name}.yaml").read_text()
        nets = re.findall(r"(?:student|teacher)=\w+", header)
        pad = ["dataset.pad_to=32"] if method.task == "classification" else []  # some nets take no smaller images
        return [f"method={name}", *nets, *pad, *DATA[method.task], *SHORT]
    return words


def train(name: str, out: Path) -> Training:
    exp, memory = experiment(out, *overrides(name)), Memory()
    before = copied(exp.teacher.model) if exp.teachers else {}
    pushed: set[int] = set()
    descend = trainer.descend

    def watched(update: Any, optimizer: Any, terms: Any) -> None:
        descend(update, optimizer, terms)
        for group in optimizer.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            pushed.update(id(parameter) for parameter in moved if parameter.grad.any())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "descend", watched)
        exp.follow(exp.method(config(out, *overrides(name))["method"]), memory.journal)
    named = {key: parameter for stage in memory.stages for key, parameter in stage.modules.named_parameters()}
    idle = [key for key, parameter in named.items() if parameter.requires_grad and id(parameter) not in pushed]
    after = copied(exp.teacher.model) if exp.teachers else {}
    return Training(copied(exp.student), memory.rows, (before, after), idle)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all, so that the teacher is trained once."""
    return tmp_path_factory.mktemp("methods")


@pytest.fixture(scope="module", params=METHODS)
def trained(request: pytest.FixtureRequest, out: Path) -> tuple[str, Training]:
    return request.param, train(request.param, out)


def test_every_term_and_score_is_finite(trained: tuple[str, Training]) -> None:
    rows = trained[1].rows
    assert rows
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())


def test_the_teachers_weights_and_buffers_stay_as_they_are(trained: tuple[str, Training]) -> None:
    assert same(*trained[1].teacher)


def test_every_trainable_parameter_gets_a_gradient_in_some_stage(trained: tuple[str, Training]) -> None:
    assert trained[1].idle == []


def test_the_same_seed_gives_the_same_numbers(trained: tuple[str, Training], out: Path) -> None:
    name, first = trained
    torch.manual_seed(12345)
    again = train(name, out)
    assert [{**row, "seconds": 0} for row in again.rows] == [{**row, "seconds": 0} for row in first.rows]
    assert same(again.student, first.student)


def test_stopped_again_and_again_it_ends_in_the_same_bits(
    trained: tuple[str, Training], out: Path, tmp_path: Path
) -> None:
    name, whole = trained
    for patience in range(1, 20):  # the first attempt is stopped after one step, the second after two more, ...
        exp = experiment(out, *overrides(name))
        left = [patience]

        def hear(training: str, stage: str, done: float, row: dict[str, Any], exp: Any = exp, left: Any = left) -> None:
            left[0] -= not row
            if left[0] == 0:
                exp.runtime.interrupt.signum = 15

        record = Record(tmp_path / "run", name, hear)
        try:
            exp.follow(exp.method(config(out, *overrides(name))["method"]), journals(record, {}))
        except Interrupted:
            continue
        finally:
            record.close()
        assert same(copied(exp.student), whole.student)
        return
    raise AssertionError("never came to its end")


def test_a_method_without_a_loss_says_so() -> None:
    class Empty(Method):
        pass

    class Student(Teacherless):
        pass

    outputs, batch = Outputs(torch.zeros(1), []), Batch(*[torch.zeros(1)] * 4, 1)
    with pytest.raises(TypeError, match=r"^Empty defines neither loss nor stages$"):
        Empty().loss(outputs, outputs, batch)
    with pytest.raises(TypeError, match=r"^Student defines neither loss nor stages$"):
        Student().loss(outputs, batch)


def test_a_method_with_only_a_loss_trains_its_own_parameters_too(tmp_path: Path) -> None:
    class Scaled(Teacherless):
        reads: ClassVar = frozenset({"logits", "features"})

        def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
            assert (student, teacher) == ([torch.Size((1, 16))], [])
            self.scale = nn.Parameter(torch.ones(()))

        def loss(self, student: Outputs, batch: Batch) -> dict[str, Tensor]:
            return {"ce": nn.functional.cross_entropy(self.scale * student.logits, batch.targets)}

    exp = experiment(tmp_path, "method=scratch")
    exp = replace(exp, student=Tapped(exp.student.model, exp.student_node["taps"]))
    method = Scaled()
    exp.follow(method, Memory().journal)
    assert float(method.scale.detach()) != 1


@pytest.mark.parametrize("name", METHODS)
def test_a_method_reads_exactly_what_it_declares(name: str, out: Path) -> None:
    pieces = assembled(config(out, *overrides(name)))
    rehearsal = Rehearsal.of(pieces.exp)
    if pieces.teacher:
        rehearsal = replace(rehearsal, teachers=(rehearsal.trained(pieces.teacher),))
    rehearsal.follow_dry(pieces.method)
    assert rehearsal.read | {"logits"} == reads(Builder(), pieces.config["method"])


@pytest.mark.parametrize("name", METHODS)
def test_each_argument_of_a_method_has_a_value_in_its_yaml(name: str) -> None:
    assert arguments(name).keys() == {field.name for field in fields(cast(Any, class_of(name))) if field.init}


def undocumented(cls: type) -> Iterator[str]:
    """The names of the arguments that the class body annotates, but has no text below."""
    body = cast(ast.ClassDef, ast.parse(inspect.getsource(cls)).body[0]).body
    for statement, below in zip(body, [*body[1:], ast.Pass()], strict=True):
        if not isinstance(statement, ast.AnnAssign) or ast.unparse(statement.annotation).startswith("ClassVar"):
            continue
        no_argument = statement.value is not None and ast.unparse(statement.value) == "field(init=False)"
        text = below.value if isinstance(below, ast.Expr) else None
        if not no_argument and not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
            yield ast.unparse(statement.target)


CLASSES = sorted(
    {
        cls
        for name in METHODS
        for cls in class_of(name).__mro__
        if cls.__module__ not in (AnyMethod.__module__, nn.Module.__module__) and issubclass(cls, AnyMethod)
    },
    key=lambda cls: cls.__name__,
)
"""Of all methods, and those that they derive from."""


@pytest.mark.parametrize("cls", CLASSES)
def test_below_each_argument_stands_what_it_is_for(cls: type[AnyMethod]) -> None:
    assert list(undocumented(cls)) == []


class Undocumented(Method):
    task: ClassVar[str] = "classification"
    one: float = 1.0
    """Has a text."""
    two: float = 2.0
    three: float = 3.0


def test_an_argument_without_a_text_below_it_is_noticed() -> None:
    assert list(undocumented(Undocumented)) == ["two", "three"]


def another(hint: Any, value: Any) -> Any:
    """A value that is allowed where ``value`` is, and is another; of what has no such at hand the same."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        parts = next((match for match in map(INTERVAL.fullmatch, marks(hint)) if match), None)
        high = float(parts[3]) if parts else math.inf
        return value + 1 if value + 1 < high else (value + high) / 2
    choices = [choice for choice in get_args(hint) if isinstance(choice, str) and choice != value]
    return choices[0] if isinstance(value, str) and choices else value


def marks(hint: Any) -> list[str]:
    """The texts that an annotation carries, its ranges among them."""
    own = [mark for mark in get_args(hint)[1:] if isinstance(mark, str)] if get_origin(hint) is Annotated else []
    return own + [mark for part in get_args(hint) if get_origin(hint) in (Union, UnionType) for mark in marks(part)]


@pytest.mark.parametrize("name", METHODS)
def test_a_copied_or_pickled_method_keeps_its_arguments(name: str) -> None:
    cls = class_of(name)
    values = {key: another(hints_of(cls).get(key), value) for key, value in arguments(name).items()}
    method = cls(**values)
    for copy in (deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert {key: getattr(copy, key) for key in values} == values
        assert copy.needs_teacher == method.needs_teacher
        assert not vars(copy).keys() ^ vars(method).keys()


def outside(hint: Any) -> Iterator[Any]:
    """Values of the right type, each just outside a range that the annotation names."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        for match in filter(None, map(INTERVAL.fullmatch, marks(hint))):
            for closed, end, way in ((match[1] == "[", float(match[2]), -1), (match[4] == "]", float(match[3]), 1)):
                if math.isfinite(end):
                    beyond = int(end) + way if parts[0] is int else math.nextafter(end, way * math.inf)
                    yield beyond if closed else parts[0](end)
    elif origin in (Union, UnionType):
        for part in parts:
            yield from outside(part)
    elif origin is tuple:
        for value in outside(parts[0]):
            yield [value] * len(parts)
    elif parts and origin is not dict:
        yield from ([value] for value in outside(parts[0]))


BEYOND = [
    (name, key, value)
    for name in METHODS
    for key, hint in hints_of(class_of(name)).items()
    for value in outside(hint)
    if class_of(name) not in map(class_of, METHODS[: METHODS.index(name)])
]
"""Once for each class: an argument, and a value out of its range."""


@pytest.mark.parametrize(("name", "key", "value"), BEYOND)
def test_an_argument_out_of_range_is_refused_in_python_too(name: str, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}(\[0\])*: .* is out of range [\[(]"):
        class_of(name)(**{**arguments(name), key: value})


def test_ranges_in_unions_and_lists_have_values_out_of_range() -> None:
    for expected in (("fitnets", "decay_end", 0), ("zskd", "scales", [0.0]), ("ae_cross", "pairs", [[-1, -1]])):
        assert expected in BEYOND
    assert {value for _, key, value in BEYOND if key == "label_smoothing"} == {-5e-324, 1.0}
