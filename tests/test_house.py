"""The rules of the house: who may import whom, who may touch files, and how long a file may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent / "kdrun"
FILES = sorted(ROOT.rglob("*.py"))

FLOORS = [
    {"__main__"},
    {"cli", "library"},
    {"run"},
    {"methods"},
    {"report"},
    {"core"},
    {"data"},
    {"store"},
    {"train"},
    {"models", "config"},
    {"errors"},
]
"""Rooms from the roof down; a room imports from lower floors and from itself."""

TOUCHES = {
    "torch.load": {"store/files", "models/loading"},
    "torch.save": {"store/files"},
    "pickle": {"data/pickles"},
    "os.replace": {"store/files", "data/download"},
    "os.rename": set(),
    "write_text": set(),
    "write_bytes": set(),
    "numpy.load": set(),
    # a row is added to metrics.jsonl, and to a teacher table: both survive a cut
    "open to write": {"store/record", "store/table_file"},
}
"""What can lose or run a user's files, and the only modules that do it."""


def place(file: Path) -> str:
    """A module as ``data/idx``, a package as its folder."""
    return file.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")


def room(file: Path) -> str:
    return place(file).partition("/")[0]


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def typing_only(tree: ast.AST) -> set[ast.AST]:
    """All that stands under ``if TYPE_CHECKING``."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {inner for block in blocks for statement in block.body for inner in ast.walk(statement)}


@cache
def imports(file: Path) -> list[str]:
    """The dotted names of the modules that a file imports when it runs, wherever in it."""
    return list(all_imports(file))


def all_imports(file: Path) -> Iterator[str]:
    tree = parsed(file)
    idle = typing_only(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and node not in idle:
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node not in idle:
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def rooms_used(file: Path) -> set[str]:
    """The rooms of the house that a file imports from."""
    parts = [name.split(".") for name in imports(file) if name.startswith("kdrun.")]
    there = {room(other) for other in FILES} - {"__init__"}
    return {name[1] for name in parts if name[1] in there}


@pytest.mark.parametrize("file", FILES, ids=place)
def test_imports_only_go_down(file: Path) -> None:
    if room(file) == "__init__":
        return  # the front door leads everywhere
    floors = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    assert room(file) in floors, f"room {room(file)} has no floor yet: give it one here and in the design"
    upward = {other for other in rooms_used(file) - {room(file)} if floors[other] <= floors[room(file)]}
    assert upward == set()


LOOKING_UP = {"core/experiment": {"methods"}, "core/rehearsal": {"methods"}}
"""Who knows a type of a higher floor: an experiment builds methods, which are given it."""


@pytest.mark.parametrize("file", FILES, ids=place)
def test_types_of_higher_floors_are_declared(file: Path) -> None:
    floors = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    if room(file) == "__init__":
        return
    nodes = [node for node in typing_only(parsed(file)) if isinstance(node, ast.ImportFrom)]
    rooms = {str(node.module).split(".")[1] for node in nodes if str(node.module).startswith("kdrun.")}
    upward = {other for other in rooms - {room(file)} if floors[other] <= floors[room(file)]}
    assert upward == LOOKING_UP.get(place(file), set())


def test_there_are_eleven_rooms() -> None:
    rooms = {file.parent.name for file in FILES if file.parent != ROOT}
    assert rooms == set("cli library run report methods core train store data models config".split())
    assert {file.name for file in FILES if file.parent == ROOT} == {"__init__.py", "__main__.py", "errors.py"}


def test_models_import_one_another_and_errors_alone() -> None:
    assert {name for file in FILES if room(file) == "models" for name in rooms_used(file)} <= {"models", "errors"}


def test_methods_know_no_files_devices_or_loop() -> None:
    rooms, modules = {"store", "cli", "run"}, ("kdrun.train.loop", "kdrun.train.runtime")
    words = re.compile(r"\bcuda\b|\.to\(|torch\.device")
    for file in (file for file in FILES if room(file) == "methods"):
        assert rooms_used(file) & rooms == set(), place(file)
        assert [name for name in imports(file) if name.startswith(modules)] == [], place(file)
        assert not words.search(file.read_text()), place(file)


def test_hydra_is_known_to_cli_config_and_the_record_alone() -> None:
    hydra = ("hydra", "omegaconf")
    knowing = {place(file) for file in FILES for name in imports(file) if name.partition(".")[0] in hydra}
    assert {name for name in knowing if name.partition("/")[0] not in ("cli", "config")} == {"store/record"}


def test_the_loop_knows_no_method_by_name() -> None:
    methods = [file.stem for file in FILES if room(file) == "methods" and file.stem not in ("__init__", "base")]
    nodes = list(ast.walk(parsed(ROOT / "train" / "loop.py")))
    names = {node.id for node in nodes if isinstance(node, ast.Name)} | {
        node.attr for node in nodes if isinstance(node, ast.Attribute)
    }
    texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
    assert {name.lower() for name in names} & set(methods) == set()
    assert texts & set(methods) == set()


def test_the_loops_header_shows_its_nesting() -> None:
    header = (ast.get_docstring(parsed(ROOT / "train" / "loop.py")) or "").splitlines()
    depths = [len(line) - len(line.lstrip()) for line in header if line.startswith(" ")]
    assert depths == [4, 8, 12, 12, 16, 16, 8]


OLD_WORDS = set(
    "judge judges alone asked shown links finding findings few look looks said told heard apart odd drawn made found "
    "given brought fresh twin twins sketch sketches mock tried still bare nameless lessened promoted grown nobody "
    "nothing ignore".split()
)
"""What the house used to call a discriminator, a baseline, teacher images, a chain, metrics of a method and so on."""

CODE = [*FILES, *sorted(Path(__file__).parent.rglob("*.py")), *sorted((ROOT.parent / "scripts").rglob("*.py"))]


def parts(name: str) -> set[str]:
    return set(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_"))


def definitions(tree: ast.AST) -> Iterator[str]:
    """All names that code defines."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name
            case ast.alias(asname=str(name)):
                yield name


@pytest.mark.parametrize("file", FILES, ids=place)
def test_no_field_is_one_of_the_old_words(file: Path) -> None:
    dicts = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.Dict)]
    fields = {key.value for node in dicts for key in node.keys if isinstance(key, ast.Constant)}
    assert {field for field in fields if isinstance(field, str) and parts(field) & OLD_WORDS} == set()


@pytest.mark.parametrize("file", CODE, ids=lambda file: file.relative_to(ROOT.parent).as_posix())
def test_no_name_is_one_of_the_old_words(file: Path) -> None:
    names = {name for name in definitions(ast.parse(file.read_text())) if parts(name) & OLD_WORDS}
    is_test = file.name.startswith("test_")
    assert {name for name in names if not (is_test and name.startswith("test_"))} == set()
    assert not parts(file.stem) & OLD_WORDS


def keys(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        yield from map(str, node)
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from keys(child)


@pytest.mark.parametrize("file", sorted((ROOT.parent / "conf").rglob("*.yaml")), ids=lambda file: file.stem)
def test_no_yaml_key_is_one_of_the_old_words(file: Path) -> None:
    settings = yaml.safe_load(file.read_text()) or {}
    settings.pop("claims", None)  # what a source calls its models is its own
    assert {key for key in keys(settings) if parts(key) & OLD_WORDS} == set()
    assert file.parent.name == "experiment" or not parts(file.stem) & OLD_WORDS  # experiments keep their names


@cache
def touched(file: Path) -> set[str]:
    """What a file does, among it what of ``TOUCHES``."""
    return set(all_touched(file))


def all_touched(file: Path) -> Iterator[str]:
    tree = parsed(file)
    for name in imports(file):
        yield name.partition(".")[0] if name.startswith("pickle") else name
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        yield called.replace("np.load", "numpy.load")
        yield called.rpartition(".")[2]
        words = [str(inner.value) for inner in ast.walk(node) if isinstance(inner, ast.Constant)]
        to_write = any(re.fullmatch(r"[wax][bt+]*|r[bt]*\+[bt]*", word) for word in words)
        if called.rpartition(".")[2] == "open" and to_write:
            yield "open to write"


@pytest.mark.parametrize("what", TOUCHES)
def test_few_modules_can_lose_or_run_a_users_files(what: str) -> None:
    assert {place(file) for file in FILES if what in touched(file)} <= TOUCHES[what]


def test_every_checkpoint_is_loaded_with_weights_only() -> None:
    for file in FILES:
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                guard = [ast.unparse(word.value) for word in node.keywords if word.arg == "weights_only"]
                assert guard == ["True"], place(file)
        assert "weights_only=False" not in file.read_text()
        assert "add_safe_globals" not in file.read_text()


def test_nothing_is_kept_in_global_variables() -> None:
    for file in FILES:
        assert not any(isinstance(node, ast.Global) for node in ast.walk(parsed(file))), place(file)


def test_no_module_is_a_drawer_for_the_rest() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "misc", "tools"}
    assert [place(file) for file in FILES if drawers & set(place(file).split("/"))] == []


@pytest.mark.parametrize("file", FILES, ids=place)
def test_no_file_is_longer_than_one_reads_at_a_sitting(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 350


@pytest.mark.parametrize("file", FILES, ids=place)
def test_no_comment_is_a_decoration_or_a_promise(file: Path) -> None:
    text = file.read_text()
    assert not re.search(r"^\s*#\s*[-=*#~]{3,}", text, re.MULTILINE)
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)


@pytest.mark.parametrize("file", FILES, ids=place)
def test_every_module_says_in_its_first_line_what_it_is(file: Path) -> None:
    docstring = ast.get_docstring(parsed(file))
    assert docstring
    assert len(docstring.splitlines()[0]) > 10
