"""The face of methods: what becomes of arguments, in which order a method begins, and what it may read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import pytest
import torch
import torch.nn.functional as F
from tiny import Memory, assembled, config, copied, experiment, same
from torch import nn

from kdrun.config.build import Builder
from kdrun.core.experiment import Experiment
from kdrun.errors import ConfigError
from kdrun.methods.arguments import Weight
from kdrun.methods.base import AnyMethod, Batch, Method, Outputs, Step, Teacherless, Terms
from kdrun.methods.kd import KD
from kdrun.run.assembly import Assembly

if TYPE_CHECKING:
    from fractions import Fraction


class Classic(Method):
    def __init__(self, weight: Weight = 1.0, *, form: Literal["one", "other"] = "one") -> None:
        super().__init__()
        self.weight, self.form = weight, form
        self.scale = nn.Parameter(torch.ones(()))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        return {"mse": self.weight * F.mse_loss(self.scale * student.logits, teacher.logits)}


class Heir(Classic):
    note: str = "no argument"


class ClassicKD(KD):
    def __init__(self, weight: Weight = 0.5) -> None:
        super().__init__(ce_weight=1 - weight, kd_weight=weight)


def test_a_method_with_an_init_of_its_own_trains(tmp_path: Path) -> None:
    exp, method = experiment(tmp_path, "method=kd"), Classic(2.0, form="other")
    before = copied(exp.student)
    exp.follow(method, Memory().journal)
    assert (method.weight, method.form) == (2.0, "other")
    assert float(method.scale.detach()) != 1
    assert not same(copied(exp.student), before)


@pytest.mark.parametrize("cls", [Classic, Heir, ClassicKD])
def test_the_arguments_of_an_own_init_are_checked(cls: Any) -> None:
    with pytest.raises(ConfigError, match=r"^weight: -5 is out of range \[0, inf\)$"):
        cls(-5)
    with pytest.raises(ConfigError, match=r"^weight: 'much' is not a number$"):
        cls(weight="much")


def test_a_choice_of_an_own_init_is_checked() -> None:
    with pytest.raises(ConfigError, match=r"^form: 'none' is not one of one, other"):
        Classic(form="none")  # type: ignore[arg-type]


def test_an_own_init_may_pass_its_arguments_on_to_fields() -> None:
    method = ClassicKD(0.25)
    assert (method.ce_weight, method.kd_weight, method.temperature) == (0.75, 0.25, KD.temperature)
    assert ClassicKD(0.0).needs_teacher is False
    with pytest.raises(ConfigError, match=r"^ce_weight: -1 is out of range"):
        ClassicKD(2.0)


def test_a_subclass_without_an_init_keeps_its_parents() -> None:
    method = Heir(3.0, form="other")
    assert (method.weight, method.form, method.note) == (3.0, "other", "no argument")
    assert isinstance(method.scale, nn.Parameter)
    with pytest.raises(TypeError, match="unexpected keyword argument 'note'"):
        Heir(note="an argument")  # type: ignore[call-arg]


class Unread(Method):
    part: Fraction | None = None
    weight: Weight = 1.0


class ClassicUnread(Method):
    def __init__(self, part: Fraction | None = None, weight: Weight = 1.0) -> None:
        super().__init__()
        self.part, self.weight = part, weight


@pytest.mark.parametrize("cls", [Unread, ClassicUnread])
def test_an_unreadable_annotation_leaves_other_ranges_in_force(cls: Any) -> None:
    assert cls(weight=2.0).weight == 2.0
    with pytest.raises(ConfigError, match=r"^weight: -5 is out of range \[0, inf\)$"):
        cls(weight=-5)


@pytest.mark.parametrize("cls", [Unread, ClassicUnread])
def test_an_argument_of_an_unreadable_annotation_is_an_error(cls: Any) -> None:
    with pytest.raises(ConfigError, match=r"^part: its annotation cannot be read .*'Fraction'.*: import that name"):
        cls(part=1)
    node = {"_target_": f"{__name__}.{cls.__name__}", "name": "unread"}
    builder = Builder(trust=[__name__])
    builder.check({**node, "weight": 1.0}, "method")
    for key, value, message in (("part", 1, "its annotation cannot be read"), ("weight", -5, "-5 is out of range")):
        with pytest.raises(ConfigError, match=rf"^method\.{key}: {message}"):
            builder.check({**node, key: value}, "method")


@pytest.mark.parametrize("learned", [nn.Linear(1, 1), nn.Parameter(torch.ones(()))], ids=["module", "parameter"])
def test_learned_parts_under_the_name_of_an_argument_are_refused(learned: Any) -> None:
    with pytest.raises(TypeError, match=r"^KD\.temperature is an argument; a module or parameter needs another name"):
        KD().temperature = learned


def test_a_buffer_under_the_name_of_an_argument_is_refused() -> None:
    with pytest.raises(KeyError, match="temperature"):
        KD().register_buffer("temperature", torch.ones(()))


class Ordered(KD):
    def setup(self, exp: Experiment) -> None:
        self.order = ["setup"]

    def connect(self, student: list[torch.Size], teacher: list[torch.Size]) -> None:
        self.order.append("connect")

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        self.order.append("loss")
        return super().loss(student, teacher, batch)


def test_setup_comes_before_connect_and_both_before_the_loss(tmp_path: Path) -> None:
    exp, method = experiment(tmp_path, "method=kd", "fast_dev_run=true"), Ordered()
    exp.follow(method, Memory().journal)
    assert method.order == ["setup", "connect", "loss", "loss"]


class First(Teacherless):
    """Reads a feature by its place."""

    def loss(self, student: Outputs, batch: Batch) -> Terms:
        return {"first": student.features[0].square().mean()}


class All(Teacherless):
    """Goes through features, as many as there are."""

    def loss(self, student: Outputs, batch: Batch) -> Terms:
        return {"all": student.logits.mean() + sum(feature.mean() for feature in student.features)}


class OfTeacher(Method):
    """Reads a feature of the teacher."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Terms:
        return {"first": (student.logits.mean() - teacher.features[0].mean()).square()}


class Rows(KD):
    """Reads the teacher's last layer."""

    def setup(self, exp: Experiment) -> None:
        self.rows = exp.classifier(exp.teacher, "teacher").weight.detach()


class PartOfStudent(Teacherless):
    """Reads a feature by itself, without the rest of the pass."""

    def loss_of(self, exp: Experiment) -> Callable[[Step], Terms]:
        return lambda step: {"part": step.until(exp.student, 0).square().mean()}


class Declared(First):
    reads: ClassVar = frozenset({"logits", "features"})


def by(cls: type[AnyMethod], out: Path) -> Assembly:
    """The pieces of a run by a method of this file."""
    settings = config(out, "method=kd" if issubclass(cls, Method) else "method=scratch")
    node = {"_target_": f"{__name__}.{cls.__name__}", "name": cls.__name__.lower()}
    return assembled({**settings, "method": node, "trust": [__name__]})


@pytest.mark.parametrize(
    ("cls", "what"),
    [
        (First, "features"),
        (All, "features"),
        (OfTeacher, "features"),
        (PartOfStudent, "features"),
        (Rows, "classifier"),
    ],
)
def test_a_method_that_reads_undeclared_things_is_refused(cls: type[AnyMethod], what: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        by(cls, tmp_path).summaries()
    assert str(refused.value) == f"method: {cls.__name__} reads {what}, which its `reads` does not declare"


def test_a_method_that_reads_declared_features_is_rehearsed(tmp_path: Path) -> None:
    assert [summary.terms for summary in by(Declared, tmp_path).summaries()] == [[["first"]]]


def test_models_are_tapped_only_for_methods_that_read_features(tmp_path: Path) -> None:
    for cls in (First, Declared):
        model = by(cls, tmp_path).exp.student
        assert bool(model.taps) == ("features" in cast(Any, cls).reads)


VIT = ("teacher=torchvision", "teacher.net=vit_b_16", "teacher.small_images=false", "dataset.pad_to=32")


def test_taps_that_a_model_lacks_do_not_matter_to_kd(tmp_path: Path) -> None:
    summaries = assembled(config(tmp_path, *VIT, "method=kd")).summaries()
    assert [summary.terms for summary in summaries] == [[["ce"]], [["ce", "kd"]]]


def test_taps_that_a_model_lacks_are_refused_for_fitnets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^teacher\.taps: no submodule 'layer1'"):
        assembled(config(tmp_path, *VIT, "method=fitnets")).summaries()
