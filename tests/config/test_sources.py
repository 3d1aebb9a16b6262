"""One file of a model serves both roles, wherever it lies; base files are no choice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tiny import COMPOSER

from kdrun.cli import main
from kdrun.config.compose import Composer
from kdrun.config.places import CONF
from kdrun.errors import ConfigError

NET = "# A net of mine\n#   kdrun train student=net\n_target_: mine.Net\nwidth: 3\ntaps: []\nrecipe: adam10\n"
POINTER = "# Mine\ndefaults:\n  - /model@_here_: {model}\n  - _self_\nrecipe: {{epochs: 7}}\n"
BASES = [path.stem for path in sorted((CONF / "experiment").glob("_*.yaml"))]


def lay(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder


def placed(place: str, folder: Path, patch: pytest.MonkeyPatch, files: dict[str, str]) -> list[str]:
    """Lays ``files`` into one of the three places of further files; returns the flags that make them known."""
    (folder / "work").mkdir()
    patch.chdir(folder / "work")
    if place == "--config-dir":
        return [place, str(lay(folder / "further", files))]
    if place == "conf/":
        lay(folder / "work/conf", files)
        return []
    name = re.sub(r"\W", "_", f"plug_{folder.name}")  # one that no other test has imported
    about = {"METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"}
    about["entry_points.txt"] = f"[kdrun.conf]\n{name} = {name}.conf\n"
    lay(folder / "site" / f"{name}-1.0.dist-info", about)
    lay(folder / "site" / name, {"__init__.py": "", "conf/__init__.py": ""})
    lay(folder / "site" / name / "conf", files)
    patch.syspath_prepend(str(folder / "site"))
    return []


PLACES = pytest.mark.parametrize("place", ["--config-dir", "conf/", "plugin"])


@PLACES
def test_a_lone_model_file_serves_both_roles(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = placed(place, tmp_path, monkeypatch, {"model/net.yaml": NET})
    config = Composer(Path(flags[1]) if flags else None).compose(["teacher=net", "student=net"])
    assert config["student"] == {"name": "net", "_target_": "mine.Net", "width": 3, "taps": []}
    assert config["student"].items() <= config["teacher"].items()
    assert config["teacher"]["recipe"]["epochs"] == 10


@PLACES
def test_a_lone_model_file_is_listed_and_completed(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = placed(place, tmp_path, monkeypatch, {"model/zeta.yaml": NET})
    for role in ("student", "teacher"):
        assert main(["ls", role, *flags]) == 0
        assert any(line.split(maxsplit=1) == ["zeta", "A net of mine"] for line in capsys.readouterr().out.splitlines())
        monkeypatch.setenv("COMP_LINE", " ".join(["kdrun", "train", *flags, f"{role}=zet"]))
        assert main(["-sc", "query=bash"]) == 0
        assert capsys.readouterr().out.split() == [f"{role}=zeta"]


def test_a_model_file_is_known_to_hydras_own_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = placed("--config-dir", tmp_path, monkeypatch, {"model/net.yaml": NET})
    assert main(["train", *flags, "student=net", "--cfg", "all", "--package", "student"]) == 0
    assert "_target_: mine.Net" in capsys.readouterr().out


def test_hydras_own_flags_refuse_a_folder_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config-dir", "nowhere", "--info", "searchpath"]) == 2
    assert capsys.readouterr().err == "kdrun: error: --config-dir: no folder 'nowhere'\n"


@PLACES
def test_a_teachers_own_file_goes_first(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"model/net.yaml": NET, "teacher/net.yaml": POINTER.format(model="net")}
    flags = placed(place, tmp_path, monkeypatch, files)
    teacher = Composer(Path(flags[1]) if flags else None).compose(["teacher=net"])["teacher"]
    assert (teacher["recipe"]["epochs"], teacher["recipe"]["batch_size"]) == (7, 64)


def test_a_teachers_own_file_goes_first_wherever_its_model_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = placed("--config-dir", tmp_path, monkeypatch, {"teacher/net.yaml": POINTER.format(model="net")})
    lay(tmp_path / "work/conf", {"model/net.yaml": NET})
    assert Composer(Path(flags[1])).compose(["teacher=net"])["teacher"]["recipe"]["epochs"] == 7


def test_a_shipped_teacher_cannot_be_replaced_unnoticed(tmp_path: Path) -> None:
    lay(tmp_path, {"teacher/resnet20.yaml": POINTER.format(model="cnn"), "model/resnet20.yaml": NET})
    config = Composer(tmp_path).compose(["teacher=resnet20", "student=resnet20"])
    assert config == COMPOSER.compose(["teacher=resnet20", "student=resnet20"])


def test_an_old_pointer_to_a_model_that_names_a_recipe_still_works(tmp_path: Path) -> None:
    pointer = POINTER.format(model="resnet20")
    student = pointer.partition("recipe")[0].replace("  - _self_\n", "")
    composer = Composer(lay(tmp_path, {"teacher/mine.yaml": pointer, "student/mine.yaml": student}))
    config = composer.compose(["teacher=mine", "student=mine"])
    assert config["teacher"]["recipe"]["optimizer"]["name"] == "adam"  # what the file says nothing of is the default
    assert "recipe" not in config["student"]


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_broken_model_file_is_named_with_its_line(role: str, tmp_path: Path) -> None:
    composer = Composer(lay(tmp_path, {"model/net.yaml": "# Mine\na: 1\n\tb: 2\n"}))
    with pytest.raises(ConfigError, match=r"^\S*/model/net\.yaml:3: cannot be read as YAML: "):
        composer.compose([f"{role}=net"])


@pytest.mark.parametrize("recipe", ["sdg200", "{epochs: 3}", "3"])
def test_a_model_that_names_no_recipe_is_refused_as_a_teacher(recipe: str, tmp_path: Path) -> None:
    composer = Composer(lay(tmp_path, {"model/net.yaml": NET.replace("adam10", recipe)}))
    with pytest.raises(ConfigError, match="recipe"):
        composer.compose(["teacher=net"])
    assert composer.compose(["student=net"])["student"]["name"] == "net"


@pytest.mark.parametrize("base", BASES)
def test_a_base_file_cannot_be_chosen(base: str) -> None:
    with pytest.raises(ConfigError, match=rf"^experiment: no option '{base}' "):
        COMPOSER.compose([f"experiment={base}"])


def test_base_files_are_neither_listed_nor_offered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", "kdrun train experiment=")
    assert main(["ls", "experiment"]) == main(["-sc", "query=bash"]) == 0
    words = capsys.readouterr().out.split()
    assert "blkd_cifar10" in words
    assert "experiment=blkd_cifar10" in words
    assert [word for word in words if word.startswith(("_", "experiment=_"))] == []


def test_a_pattern_of_names_passes_base_files_over() -> None:
    override = COMPOSER.options.parse("experiment=glob(*)")
    assert set(override.sweep_string_iterator()) == set(COMPOSER.options.names("experiment"))


def test_files_whose_names_no_override_can_say_are_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "conf/method"
    folder.mkdir(parents=True)
    for name in ("mine.yaml", "a b.yaml", "-x.yaml", "${seed}.yaml", "\x1b]0;hit\x07.yaml", ".yaml", "old.yml"):
        (folder / name).write_text("_target_: kdrun.methods.kd.KD\n")
    assert main(["ls", "method"]) == 0
    out, err = capsys.readouterr()
    names = [line.split()[0] for line in out.splitlines()]
    assert "mine" in names
    assert {"a", "a b", "-x", "${seed}", "old", ""}.isdisjoint(names)
    assert err == ""
