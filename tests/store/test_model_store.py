from __future__ import annotations

import time
import warnings
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from tiny import config, copied, experiment, same

from kdrun.config.nodes import BASELINE
from kdrun.core.experiment import Experiment
from kdrun.errors import InputError, Interrupted
from kdrun.store import files
from kdrun.store import model_store as store
from kdrun.store.model_store import ModelStore, differences, key
from kdrun.train.runtime import Interrupt

FIELDS = {"seed": 0, "recipe": {"epochs": 3}}


def silent(line: str) -> None:
    pass


class Trainer:
    """Trains nothing, writes weights, counts how often."""

    def __init__(self, content: bytes = b"weights") -> None:
        self.content, self.count = content, 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.count += 1
        files.write(files.folder(folder) / "model.safetensors", self.content)
        digests = {"model.safetensors": files.digest(folder / "model.safetensors")}
        return {"files": digests, "scores": {"top1": 0.5}, "environment": {}}


def test_the_same_fields_are_trained_once(tmp_path: Path) -> None:
    train = Trainer()
    first = ModelStore(tmp_path, Interrupt(), silent).get("net", FIELDS, train)
    again = ModelStore(tmp_path, Interrupt(), silent).get("net", dict(reversed(FIELDS.items())), train)
    assert train.count == 1
    assert first == again
    assert first[0].name == f"net-{key(FIELDS)[:12]}"
    assert first[1]["scores"] == {"top1": 0.5}
    assert (first[1]["key"], first[1]["fields"]) == (key(FIELDS), FIELDS)


def test_a_teacher_is_trained_on_all_images_not_on_the_subset(tmp_path: Path) -> None:
    whole, subset = (experiment(tmp_path / name, f"dataset.train_size={name}") for name in ("null", "32"))
    assert whole.teacher.key == subset.teacher.key
    assert same(copied(whole.teacher.model), copied(subset.teacher.model))


@pytest.mark.parametrize("other", [{"seed": 1}, {"recipe": {"epochs": 4}}, {"recipe": {"epochs": 3, "lr": 0.1}}])
def test_any_other_field_is_another_model(other: dict[str, Any], tmp_path: Path) -> None:
    train, here = Trainer(), ModelStore(tmp_path, Interrupt(), silent)
    assert here.get("net", FIELDS, train)[0] != here.get("net", {**FIELDS, **other}, train)[0]
    assert train.count == 2


def test_another_format_number_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(FIELDS)
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert key(FIELDS) != before


def test_a_failed_training_is_not_published_and_can_be_retried(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        files.write(files.folder(folder) / "model.safetensors", b"half")
        raise RuntimeError("no")

    here, train = ModelStore(tmp_path, Interrupt(), silent), Trainer()
    with pytest.raises(RuntimeError):
        here.get("net", FIELDS, fail)
    folder, _ = here.get("net", FIELDS, train)
    assert (folder / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("damage", ["flipped", "short", "gone"])
def test_weights_that_are_not_those_published_are_refused(damage: str, tmp_path: Path) -> None:
    here, train = ModelStore(tmp_path, Interrupt(), silent), Trainer()
    folder, _ = here.get("net", FIELDS, train)
    path = folder / "model.safetensors"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"veights" if damage == "flipped" else b"weight")
    with pytest.raises(InputError) as caught:
        here.get("net", FIELDS, train)
    assert str(caught.value) == f"{path}: is damaged (its sha256 differs); delete {folder} to train it anew"
    assert train.count == 1


@pytest.mark.parametrize("content", ["", "{", '{"sha256": "0"}'])
def test_a_damaged_manifest_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    here, train = ModelStore(tmp_path, Interrupt(), silent), Trainer()
    folder, _ = here.get("net", FIELDS, train)
    (folder / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        here.get("net", FIELDS, train)


def trained_elsewhere(root: Path) -> None:
    """Trains the model, as long as nobody says ``go``."""

    def train(folder: Path) -> dict[str, Any]:
        files.write(files.folder(folder / "stages") / "01-distill.last.pt", b"half way")
        (root / "begun").touch()
        while not (root / "go").exists():
            time.sleep(0.01)
        return Trainer(b"the other's")(folder)

    ModelStore(root / "models", Interrupt(), silent).get("net", FIELDS, train)


def other_process(root: Path) -> BaseProcess:
    """Another process that trains the same model and has begun."""
    child = get_context("fork").Process(target=trained_elsewhere, args=(root,), daemon=True)
    with warnings.catch_warnings(action="ignore"):  # of threads that a fork leaves behind: the child needs none
        child.start()
    while not (root / "begun").exists():
        assert child.is_alive()
        time.sleep(0.01)
    return child


def test_a_second_process_waits_for_the_training_and_says_so(tmp_path: Path) -> None:
    child, train, lines = other_process(tmp_path), Trainer(), []

    def hear(line: str) -> None:
        lines.append(line)
        (tmp_path / "go").touch()

    folder, _ = ModelStore(tmp_path / "models", Interrupt(), hear).get("net", FIELDS, train)
    child.join()
    assert child.exitcode == 0
    assert train.count == 0
    assert (folder / "model.safetensors").read_bytes() == b"the other's"
    assert lines == [f"waiting for another process that trains {folder.name}"]


def test_whoever_waits_takes_over_where_the_trainer_was_killed(tmp_path: Path) -> None:
    child, states = other_process(tmp_path), []

    def train(folder: Path) -> dict[str, Any]:
        states.append((folder / "stages" / "01-distill.last.pt").read_bytes())
        return Trainer(b"mine")(folder)

    here = ModelStore(tmp_path / "models", Interrupt(), lambda line: child.kill())
    folder, _ = here.get("net", FIELDS, train)
    child.join()
    assert child.exitcode == -9
    assert states == [b"half way"]
    assert (folder / "model.safetensors").read_bytes() == b"mine"


def test_a_signal_ends_the_waiting(tmp_path: Path) -> None:
    from filelock import FileLock

    interrupt = Interrupt()

    def hear(line: str) -> None:
        interrupt.signum = 15

    here = ModelStore(tmp_path, interrupt, hear)
    with FileLock(tmp_path / f".net-{key(FIELDS)[:12]}.lock"), pytest.raises(Interrupted) as caught:
        here.get("net", FIELDS, Trainer())
    assert caught.value.exit_code == 143


def test_environments_differ_by_name_and_both_values() -> None:
    here, there = {"device": "cpu", "threads": 1, "torch": "2"}, {"device": "cpu", "threads": 4}
    assert differences(here, there) == "threads 1 here, 4 there"
    assert differences(here, here) == ""


def fields(out: Path, *overrides: str) -> dict[str, Any]:
    """The fields of the student of a run."""
    whole = config(out, *overrides)
    exp = experiment(out, *overrides)
    return exp.key_fields(whole["student"], whole["method"], exp.teacher, exp.plan)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


OTHER = [
    "student=mlp_32",
    "student.dropout=0.1",
    "dataset.seed=1",
    "dataset.noise=0.5",
    "dataset.train_size=40",
    "dataset.val_fraction=0.2",
    "dataset.split_seed=1",
    "dataset.mean=[0.4]",
    "dataset.std=[0.5]",
    "dataset.crop=1",
    "dataset.flip=true",
    "dataset.pad_to=14",
    "epochs=2",
    "batch_size=16",
    "optimizer=sgd",
    "optimizer.lr=0.002",
    "schedule=cosine",
    "precision=bf16",
    "method=kd_soft",
    "method.temperature=3",
    "teacher.seed=1",
    "teacher.recipe.epochs=2",
    "teacher=mlp_32",
    "seed=1",
    "fast_dev_run=true",
]

SAME = [
    "student.taps=[]",
    "name=other",
    "threads=2",
    "teacher.taps=[]",
    "student.hidden=[16]",
    "dataset.test_count=40",
]


@pytest.mark.parametrize("override", OTHER)
def test_whatever_makes_another_model_makes_another_key(override: str, out: Path) -> None:
    assert key(fields(out, override)) != key(fields(out))


@pytest.mark.parametrize("override", SAME)
def test_whatever_makes_the_same_model_makes_the_same_key(override: str, out: Path) -> None:
    assert key(fields(out, override)) == key(fields(out))


def test_the_same_under_another_name_has_the_same_key(out: Path) -> None:
    exp, whole = experiment(out), config(out)
    renamed = {role: {**whole[role], "name": "other"} for role in ("student", "method")}
    one = exp.key_fields(whole["student"], whole["method"], exp.teacher, exp.plan)
    assert exp.key_fields(renamed["student"], renamed["method"], exp.teacher, exp.plan) == one


def test_a_changed_source_of_a_users_class_makes_another_key(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "my_nets.py"
    code.write_text("from kdrun.models.mlp import MLP\nclass Mine(MLP):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    exp, whole = experiment(out, "trust=[my_nets]"), config(out)
    node = {**whole["student"], "_target_": "my_nets.Mine"}
    before = key(exp.key_fields(node, BASELINE["classification"], None, exp.plan))
    code.write_text(code.read_text() + "    wide = True\n")
    assert key(exp.key_fields(node, BASELINE["classification"], None, exp.plan)) != before


def test_a_changed_source_of_a_users_optimizer_makes_another_key(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "my_optimizers.py"
    code.write_text("from torch.optim import SGD\nclass Mine(SGD):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    exp, whole = experiment(out, "trust=[my_optimizers]"), config(out)
    node = {**exp.plan.node, "optimizer": {"_target_": "my_optimizers.Mine", "name": "mine"}}
    plan = replace(exp.plan, node=node)
    before = key(exp.key_fields(whole["student"], BASELINE["classification"], None, plan))
    code.write_text(code.read_text() + "    quick = True\n")
    assert key(exp.key_fields(whole["student"], BASELINE["classification"], None, plan)) != before


@pytest.mark.parametrize("role", ["trained now", "stored"])
def test_a_trained_model_is_frozen_and_in_eval_mode(role: str, tmp_path: Path) -> None:
    for _ in range(1 if role == "trained now" else 2):
        teacher = experiment(tmp_path, "teacher=resnet8").teacher
    assert not any(module.training for module in teacher.model.modules())
    assert not any(weight.requires_grad for weight in teacher.parameters())


def test_a_teacher_does_not_depend_on_the_runs_recipe_or_seed(out: Path) -> None:
    one = experiment(out)
    for overrides in (["seed=5", "epochs=3", "batch_size=8", "optimizer=sgd", "dataset.train_size=30"], ["method=gan"]):
        other = experiment(out, *overrides)
        assert other.teacher.key == one.teacher.key


def test_a_model_trained_elsewhere_is_used_with_a_notice(out: Path) -> None:
    exp, lines = experiment(out), []
    assert exp.teacher.folder is not None
    manifest = exp.teacher.folder / "manifest.json"
    content = files.read_json(manifest)
    files.write_json(manifest, {**content, "environment": {**content["environment"], "threads": 7}})
    parts = {name: getattr(exp, name) for name in Experiment.__dataclass_fields__}
    again = Experiment(**{**parts, "notice": lines.append, "chain": []}).trained(config(out)["teacher"])
    assert again.key == exp.teacher.key
    what = "was trained elsewhere: threads 1 here, 7 there; a retraining may differ in the last bits"
    assert lines == [f"{exp.teacher.folder.name} {what}"]
