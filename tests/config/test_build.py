from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
import torch

import kdrun.config.build
from kdrun.config.build import MODEL, Builder
from kdrun.config.kinds import DATASET, METHOD, OPTIMIZER, SCHEDULE, Kind
from kdrun.config.kinds import MODEL as A_MODEL
from kdrun.config.values import check_value, inside
from kdrun.errors import ConfigError

HERE = __name__
BUILDER = Builder([HERE])
THING = Kind("a thing", object)


class Inner:
    def __init__(self, width: Annotated[int, "[1, 8]"] = 2) -> None:
        self.width = width


class Outer:
    """Takes one of everything."""

    def __init__(
        self,
        first: int,
        temperature: Annotated[float, "(0, 1000]"] = 4.0,
        kind: Literal["hard", "soft"] = "soft",
        depth: Annotated[int, "[1, inf)"] | None = None,
        weights: Sequence[Annotated[float, "[0, 1]"]] = (),
        inner: Inner | None = None,
        recipe: Annotated[dict[str, Any], THING] | None = None,
        chain: list[Annotated[dict[str, Any], THING]] | None = None,
    ) -> None:
        if depth == 7:
            raise ValueError("seven levels do not fit")
        self.first, self.temperature, self.kind, self.weights = first, temperature, kind, weights
        self.inner, self.recipe, self.chain = inner, recipe, chain


@dataclass(kw_only=True)
class Data:
    size: int
    crop: Annotated[int, "[0, inf)"] = 0


@dataclass(kw_only=True)
class MoreData(Data):
    fraction: Annotated[float, "(0, 1)"] = 0.1


def free(**more: Any) -> dict:  # type: ignore[type-arg]
    return more


def at(name: str, /, **values: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.{name}", **values}


def refusal(node: dict[str, Any], supplied: tuple[str, ...] = ("first",)) -> str:
    with pytest.raises(ConfigError) as refused:
        Builder([HERE]).check(node, "method", supplied, kinds=[THING])
    return str(refused.value)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"temperature": 0}, "method.temperature: 0 is out of range (0, 1000]"),
        ({"temperature": -4.0}, "method.temperature: -4 is out of range (0, 1000]"),
        ({"temperature": math.nan}, "method.temperature: nan is out of range (0, 1000]"),
        ({"temperature": math.inf}, "method.temperature: inf is out of range (0, 1000]"),
        ({"temperature": "four"}, "method.temperature: 'four' is not a number"),
        ({"temperature": True}, "method.temperature: true is not a number"),
        ({"temperature": None}, "method.temperature: null is not a number"),
        ({"temperature": [4]}, "method.temperature: [4] is not a number"),
        ({"depth": 0}, "method.depth: 0 is out of range [1, inf)"),
        ({"depth": 1.5}, "method.depth: 1.5 is not a whole number"),
        ({"kind": "sofd"}, "method.kind: 'sofd' is not one of hard, soft; did you mean 'soft'?"),
        ({"weights": 1}, "method.weights: 1 is not a list"),
        ({"weights": [0.5, 2]}, "method.weights[1]: 2 is out of range [0, 1]"),
        ({"recipe": "adam"}, "method.recipe: 'adam' is not a group of keys"),
        ({"temprature": 3}, "method.temprature: unknown key; did you mean 'method.temperature'?"),
        ({"T": 3}, "method.T: unknown key; did you mean 'method.temperature'?"),
        ({"first": 3}, "method.first: unknown key; Outer takes temperature, kind, depth"),
        ({"inner": {"_target_": f"{HERE}.Inner", "width": 9}}, "method.inner.width: 9 is out of range [1, 8]"),
        ({"recipe": {"_target_": f"{HERE}.Inner", "width": 9}}, "method.recipe.width: 9 is out of range [1, 8]"),
        ({"chain": [{"_target_": f"{HERE}.Inner", "wide": 9}]}, "method.chain[0].wide: unknown key"),
    ],
)
def test_an_unknown_argument_is_refused_with_its_full_key(values, fault):
    assert refusal(at("Outer", **values)).startswith(fault)


def test_a_missing_argument_is_named():
    assert refusal(at("Outer"), supplied=()).startswith("method.first: missing; Outer takes first, temperature")


def test_a_node_kept_as_a_dict_may_lack_later_arguments():
    BUILDER.check(at("Outer", recipe=at("Outer")), "method", ("first",), kinds=[THING])


def test_fields_inherited_by_a_data_class_are_checked_too():
    assert refusal(at("MoreData", size=8, crop=-1), supplied=()) == "method.crop: -1 is out of range [0, inf)"
    assert refusal(at("MoreData", size=8, fraction=1), supplied=()) == "method.fraction: 1 is out of range (0, 1)"
    assert BUILDER.build(at("MoreData", size=8), where="dataset", kinds=[THING]).fraction == 0.1


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("os.system", "'os.system' is not under kdrun, torch.optim, torchvision; if you trust it, add trust=[os]"),
        ("torch.load", "'torch.load' is not under"),
        ("kdrunner.Loss", "'kdrunner.Loss' is not under"),
        ("kdrun.train.schedules.math", "'kdrun.train.schedules.math' is not a class"),
        ("kdrun.train.schedules.Sequence", "'kdrun.train.schedules.Sequence' is not a method or a dataset"),
        ("kdrun.core.models.nn.Linear", "cannot import 'kdrun.core.models.nn.Linear'"),
        ("kdrun.models.resnet.Tensor", "'kdrun.models.resnet.Tensor' is not a method"),
        ("kdrun.train.schedules.Cosin", "no 'Cosin' in kdrun.train.schedules; did you mean 'Cosine'?"),
        ("kdrun.nowhere.Cosine", "cannot import 'kdrun.nowhere.Cosine'"),
        ("kdrun", "'kdrun' does not name a class"),
        (None, "null does not name a class"),
    ],
)
def test_only_classes_of_trusted_packages_are_named(target, fault):
    with pytest.raises(ConfigError) as refused:
        Builder().check({"_target_": target}, "method")
    assert str(refused.value).startswith(f"method._target_: {fault}")


def test_arguments_are_passed_and_nested_nodes_are_built_first():
    node = at("Outer", name="mine", temperature=2, weights=[0, 1], inner=at("Inner", width=3), chain=[at("Inner")])
    built = BUILDER.build(node, 5, where="method", kinds=[THING])
    assert (built.first, built.temperature, built.weights) == (5, 2, [0, 1])
    assert (type(built.inner), built.inner.width) == (Inner, 3)
    assert built.chain == [at("Inner")]


def test_building_leaves_the_node_as_it_was():
    node = at("Outer", name="mine", inner=at("Inner"))
    BUILDER.build(node, 5, where="method", kinds=[THING])
    assert node == at("Outer", name="mine", inner=at("Inner"))


def test_keys_that_are_no_arguments_are_dropped_where_named():
    assert BUILDER.build(at("Inner", name="x", taps=["a"]), where="student", drop=MODEL, kinds=[THING]).width == 2
    assert refusal(at("Inner", taps=["a"]), ()).startswith("method.taps: unknown key")


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The targets whose keys are checked, once per check."""
    targets: list[Any] = []
    check_keys = kdrun.config.build._check_keys

    def counted(values: dict[str, Any], target: Any, where: str, supplied: Any) -> None:
        targets.append(target)
        check_keys(values, target, where, supplied)

    monkeypatch.setattr(kdrun.config.build, "_check_keys", counted)
    return targets


def test_a_node_is_checked_once_however_often_it_is_built(checks: list[Any]) -> None:
    builder, node = Builder([HERE]), at("Outer", name="mine", inner=at("Inner", width=3))
    builder.check(node, "method", ["first"], kinds=[THING])
    for _ in range(3):
        assert builder.build(node, 5, where="method", kinds=[THING]).inner.width == 3
    builder.build({**node, "name": "another"}, 5, where="student", kinds=[THING])  # a name is no argument
    assert checks == [Outer, Inner]


def test_an_optimizer_is_checked_once_however_often_it_is_built(checks: list[Any]) -> None:
    builder, node = Builder(), {"_target_": "torch.optim.SGD", "lr": 0.1}
    builder.check(node, "optimizer")
    for _ in range(3):
        builder.build(node, [torch.nn.Parameter(torch.ones(2))], where="optimizer")
    assert checks == [torch.optim.SGD]


def test_a_node_that_passed_is_refused_once_it_has_changed(checks: list[Any]) -> None:
    builder = Builder([HERE])
    builder.check(at("Inner", width=3), "student", kinds=[THING])
    with pytest.raises(ConfigError, match=r"^student\.width: 9 is out of range \[1, 8\]$"):
        builder.check(at("Inner", width=9), "student", kinds=[THING])
    with pytest.raises(ConfigError, match=r"^student\.width: unknown key"):
        builder.check(at("Inner", width=3), "student", ["width"], kinds=[THING])
    assert checks == [Inner] * 3


def test_a_refusal_of_the_class_itself_names_the_node():
    with pytest.raises(ConfigError, match=r"^method: seven levels do not fit$"):
        BUILDER.build(at("Outer", depth=7), 1, where="method", kinds=[THING])


def test_a_target_that_takes_any_key_gets_any_key():
    assert BUILDER.build(at("free", a=1, b=[2]), where="method", kinds=[THING]) == {"a": 1, "b": [2]}


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"lr": -1}, "optimizer.lr: -1 is out of range (0, inf)"),
        ({"lr": 0}, "optimizer.lr: 0 is out of range (0, inf)"),
        ({"lr": math.nan}, "optimizer.lr: nan is not a finite number"),
        ({"lr": "fast"}, "optimizer.lr: 'fast' is not a number"),
        ({"momentum": -1}, "optimizer.momentum: Invalid momentum value: -1"),
        ({"nesterov": True}, "optimizer.nesterov: Nesterov momentum requires a momentum"),
        ({"nesterov": 3}, "optimizer.nesterov: 3 is not true or false"),
        ({"momentom": 0.9}, "optimizer.momentom: unknown key; did you mean 'optimizer.momentum'?"),
    ],
)
def test_bad_optimizer_values_are_refused_before_it_has_parameters(values, fault):
    with pytest.raises(ConfigError) as refused:
        Builder().check({"_target_": "torch.optim.SGD", **values}, "optimizer")
    assert str(refused.value).startswith(fault)


def test_an_optimizer_is_built_over_the_parameters_passed():
    weight = torch.nn.Parameter(torch.ones(2))
    built = Builder().build({"_target_": "torch.optim.Adam", "betas": [0.5, 0.9]}, [weight], where="optimizer")
    assert built.param_groups[0]["params"] == [weight]
    assert tuple(built.param_groups[0]["betas"]) == (0.5, 0.9)


@pytest.mark.parametrize("group", ["dataset", "method", "optimizer", "schedule"])
def test_every_file_lists_exactly_the_arguments_of_its_class(compose, group):
    import inspect

    from kdrun.config.places import CONF

    for path in sorted((CONF / group).glob("*.yaml")):
        node = compose(f"{group}={path.stem}")[group]
        Builder().check(node, group)
        target = Builder().target(node, group)
        if target.__module__.startswith("kdrun."):
            assert set(node) - {"_target_", "name"} == set(inspect.signature(target).parameters), path.stem


@pytest.mark.parametrize(
    ("value", "interval", "lies_in"),
    [
        (0, "(0, 1]", False),
        (0, "[0, 1]", True),
        (1, "(0, 1)", False),
        (1, "(0, 1]", True),
        (math.nan, "[0, inf)", False),
        (math.inf, "[0, inf)", False),
        (-5, "(-inf, 0]", True),
        (4294967296, "[0, 4294967295]", False),
        (3, "a note", True),
    ],
)
def test_intervals_hold_their_closed_ends_only(value, interval, lies_in):
    assert inside(value, interval) is lies_in


def test_a_long_value_is_cut_in_an_error():
    with pytest.raises(ConfigError) as refused:
        check_value("x" * 1000, int, "epochs")
    assert len(str(refused.value)) < 200


PLACES = {"dataset": DATASET, "student": A_MODEL, "method": METHOD, "optimizer": OPTIMIZER, "schedule": SCHEDULE}
FOREIGN = [
    "kdrun.cli.main",
    "kdrun.cli.script",
    "kdrun.store.files.write",
    "kdrun.store.record.Record",
    "kdrun.config.build.Builder",
    "kdrun.data.download.fetch",
    "kdrun.data.splits.Data",
    "kdrun.errors.ConfigError",
    "kdrun.train.taps.freeze",
    "torchvision.datasets.utils.download_url",
    "torchvision.datasets.utils.extract_archive",
    "torchvision.datasets.MNIST",
    "torchvision.transforms.Compose",
    "torchvision.models.get_model_weights",
    "torchvision.models.os.system",
    "torch.optim.lr_scheduler.StepLR",
    "os.system",
    "os.mkdir",
    "os.unlink",
    "builtins.exec",
    "builtins.open",
    "subprocess.Popen",
    "pathlib.Path.touch",
    "functools.partial",
    f"{HERE}.free",
    f"{HERE}.Inner",
]
TRUSTING = Builder([HERE, "os", "posix", "builtins", "subprocess", "pathlib", "functools", "_io"])
SHIPPED = {
    "dataset": "kdrun.data.digits.Digits",
    "student": "kdrun.models.mlp.MLP",
    "method": "kdrun.methods.kd.KD",
    "optimizer": "torch.optim.SGD",
    "schedule": "kdrun.train.schedules.Cosine",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("path", FOREIGN)
def test_what_is_of_no_kind_is_refused_even_if_trusted(path: str, place: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{place}\._target_: "):
        TRUSTING.check({"_target_": path}, place, None, kinds=[PLACES[place]])
    with pytest.raises(ConfigError, match=rf"^{place}\._target_: "):
        TRUSTING.build({"_target_": path}, where=place)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("of", PLACES)
def test_a_class_belongs_only_at_places_of_its_kind(of: str, place: str) -> None:
    fits = of == place or (of, place) == ("method", "student")  # a method is a module, as a model is
    if fits:
        assert Builder().target({"_target_": SHIPPED[of]}, place, [PLACES[place]])
        return
    with pytest.raises(ConfigError) as refused:
        Builder().target({"_target_": SHIPPED[of]}, place, [PLACES[place]])
    assert str(refused.value) == f"{place}._target_: {SHIPPED[of]!r} is not {PLACES[place].word}"


def returns_a_model() -> torch.nn.Linear:
    return torch.nn.Linear(1, 1)


def returns_unannotated():
    return torch.nn.Linear(1, 1)


def returns_a_text() -> str:
    return "x"


def returns_either() -> torch.nn.Linear | str:
    return "x"


def test_a_function_is_taken_by_the_class_that_it_returns() -> None:
    for path in (f"{HERE}.returns_a_model", "torchvision.models.resnet18", "kdrun.models.zoo.from_torchvision"):
        assert callable(BUILDER.target({"_target_": path}, "student", [A_MODEL]))
    for name, why in {
        "returns_unannotated": "has to say",
        "returns_a_text": "else",
        "returns_either": "else",
    }.items():
        with pytest.raises(ConfigError, match=why):
            BUILDER.target({"_target_": f"{HERE}.{name}"}, "student", [A_MODEL])


class Half:
    def __call__(self, progress):
        return 0.5


class Third:
    def __call__(self, part: float, times: int = 1) -> float:
        return part / 3


def test_a_schedule_is_known_by_how_it_is_called() -> None:
    for name in ("Half", "Third"):
        assert BUILDER.build(at(name), where="schedule", kinds=[SCHEDULE])(1.0) < 1
    with pytest.raises(ConfigError, match="is not a schedule"):
        BUILDER.check(at("Inner"), "schedule", kinds=[SCHEDULE])


@pytest.mark.parametrize(
    ("node", "where"),
    [
        ({"_target_": "kdrun.methods.takd.TAKD", "assistants": [], "base": {"_target_": SHIPPED["student"]}}, "base"),
        (
            {
                "_target_": "kdrun.methods.takd.TAKD",
                "base": {"_target_": SHIPPED["method"]},
                "assistants": [{"_target_": SHIPPED["schedule"]}],
            },
            r"assistants\[0\]",
        ),
        ({"_target_": "kdrun.methods.kd.KD", "temperature": {"_target_": SHIPPED["schedule"]}}, "temperature"),
        ({"_target_": f"{HERE}.Nested", "any": {"_target_": "kdrun.cli.main"}}, "any"),
        ({"_target_": f"{HERE}.Nested", "one": {"_target_": SHIPPED["method"]}}, "one"),
        ({"_target_": f"{HERE}.Nested", "plain": {"_target_": "os.system"}}, "plain"),
    ],
)
def test_a_nested_node_is_of_the_kind_that_its_argument_says(node: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError, match=rf"^method\.{where}"):
        TRUSTING.check(node, "method", kinds=[METHOD, THING])


class Nested:
    def __init__(self, any=None, one: Inner | None = None, plain: dict[str, Any] | None = None) -> None:
        self.any = any


def test_a_module_that_fails_on_import_is_one_error(tmp_path, monkeypatch) -> None:
    for name, code in {"own_broken": "def (", "own_raising": "1 / 0"}.items():
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(ConfigError, match=rf"^method\._target_: cannot import '{name}\.Thing'"):
            Builder([name]).check({"_target_": f"{name}.Thing"}, "method")


@pytest.mark.parametrize(
    "path", ["kdrun..x", "kdrun.models.", ".kdrun.x", "kdrun.models.mlp.MLP ", "kdrun.a\0.b", 3, []]
)
def test_what_is_no_dotted_name_names_no_class(path: object) -> None:
    with pytest.raises(ConfigError, match="does not name a class"):
        Builder().check({"_target_": path}, "method")
