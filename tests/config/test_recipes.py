"""Recipes: epochs, batch size, optimizer and schedule by one name, of the run and of the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import COMPOSER, setting

from kdrun.config.compose import Composer
from kdrun.config.places import CONF
from kdrun.errors import ConfigError

RECIPES = COMPOSER.options.names("recipe")
FOUR = ("epochs", "batch_size", "optimizer", "schedule")
SGD200 = {"epochs": 200, "batch_size": 128, "optimizer.name": "sgd", "schedule.name": "cosine"}
PLAIN = {"epochs": 20, "batch_size": 64, "optimizer.name": "adam", "schedule.name": "constant"}


def recipe(config: dict[str, Any], where: str = "") -> dict[str, Any]:
    return {key: setting(config, f"{where}{key}") for key in SGD200}


def lay(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(text, "utf-8")


def test_a_recipe_sets_the_four_things_of_the_run() -> None:
    config = COMPOSER.compose(["recipe=sgd200"])
    assert recipe(config) == SGD200
    assert recipe(config, "teacher.recipe.") == PLAIN


@pytest.mark.parametrize("key", ["teacher.recipe", "recipe@teacher.recipe"])
def test_a_teachers_recipe_is_chosen_by_its_dotted_key(key: str) -> None:
    config = COMPOSER.compose([f"{key}=sgd200"])
    assert recipe(config, "teacher.recipe.") == SGD200
    assert recipe(config) == PLAIN


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_same_for_the_run_and_the_teacher(name: str) -> None:
    config = COMPOSER.compose([f"recipe={name}", f"teacher.recipe={name}"])
    assert {key: config[key] for key in FOUR} | {"stop_at": None} == config["teacher"]["recipe"]


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_in_a_recipes_header_chooses_it(name: str) -> None:
    assert f"#   kdrun train recipe={name}\n" in (CONF / f"recipe/{name}.yaml").read_text("utf-8")


def test_explicit_keys_win_over_a_recipe() -> None:
    config = COMPOSER.compose(["epochs=5", "optimizer=adam", "recipe=sgd200", "optimizer.lr=0.5"])
    assert recipe(config) == {**SGD200, "epochs": 5, "optimizer.name": "adam"}
    assert config["optimizer"]["lr"] == 0.5


def test_explicit_keys_win_over_the_recipe_of_a_teacher() -> None:
    words = ["teacher=resnet20", "teacher.recipe.epochs=5", "teacher.recipe.optimizer=adam"]
    config = COMPOSER.compose(words)
    assert recipe(config, "teacher.recipe.") == {**SGD200, "epochs": 5, "optimizer.name": "adam"}


def test_the_recipe_that_is_chosen_goes_before_the_models() -> None:
    config = COMPOSER.compose(["teacher=plane10", "teacher.recipe=sgd200"])
    assert recipe(config, "teacher.recipe.") == SGD200


def test_a_recipe_goes_before_that_of_an_experiment() -> None:
    config = COMPOSER.compose(["experiment=blkd_mnist", "recipe=sgd200", "teacher.recipe=adam10"])
    assert recipe(config) == SGD200
    assert config["optimizer"]["weight_decay"] == 5e-4
    assert recipe(config, "teacher.recipe.") == {**PLAIN, "epochs": 10, "batch_size": 128}


def test_another_optimizer_than_a_recipes_has_its_own_keys() -> None:
    plain = COMPOSER.compose(["optimizer=sgd_plain", "schedule=steps"])
    for more in ([], ["teacher=resnet20"], ["experiment=blkd_mnist"]):
        config = COMPOSER.compose([*more, "recipe=wrn200", "optimizer=sgd_plain", "schedule=steps"])
        assert config["optimizer"] == plain["optimizer"]
        assert config["schedule"]["milestones"] == [0.3, 0.6, 0.8]  # the recipe has steps too


def test_no_recipe_can_be_chosen_for_no_teacher() -> None:
    assert COMPOSER.compose(["teacher=none", "method=scratch", "teacher.recipe=sgd200"])["teacher"] is None


@pytest.mark.parametrize("experiment", ["blkd_mnist", "kd_mnist", "hard_cifar10"])
def test_an_experiment_may_be_had_without_its_teacher(experiment: str) -> None:
    words = ["method=scratch", "teacher=none", "teacher.recipe=sgd200", "teacher.recipe.optimizer=sgd"]
    assert COMPOSER.compose([f"experiment={experiment}", *words])["teacher"] is None


def test_a_recipes_name_is_in_no_config() -> None:
    config = COMPOSER.compose(["recipe=sgd200", "teacher.recipe=sgd200"])
    assert "recipe" not in config
    assert "name" not in config["teacher"]["recipe"]


@pytest.mark.parametrize("key", ["recipe", "teacher.recipe"])
def test_a_slip_in_a_recipe_is_understood(key: str) -> None:
    with pytest.raises(ConfigError) as refused:
        COMPOSER.compose([f"{key}=sdg200"])
    assert str(refused.value).startswith(f"{key}: no option 'sdg200' (have: adam10, ")
    assert str(refused.value).endswith("did you mean 'sgd200'?")


def test_a_models_recipe_is_that_of_the_teacher_alone() -> None:
    config = COMPOSER.compose(["teacher=resnet20", "student=resnet20"])
    assert "recipe" not in config["student"]
    assert recipe(config, "teacher.recipe.") == SGD200
    assert recipe(config) == PLAIN


def test_a_models_recipe_is_taken_off_in_a_list_of_models() -> None:
    words = ["method=gskd", "method.students=[resnet8]", "method.new_teacher=resnet20"]
    method = COMPOSER.compose(words)["method"]
    assert "recipe" not in method["students"][0]
    assert "recipe" not in method["new_teacher"]


def test_a_recipe_of_ones_own_is_a_choice_for_run_model_and_teacher(tmp_path: Path) -> None:
    lay(tmp_path, "recipe/mine", "# @package _global_\ndefaults:\n  - override /optimizer@optimizer: sgd\nepochs: 7\n")
    lay(tmp_path, "model/net", "# Mine\n_target_: mine.Net\nrecipe: mine\n")
    config = Composer(tmp_path).compose(["recipe=mine", "teacher=net"])
    mine = {**PLAIN, "epochs": 7, "optimizer.name": "sgd"}  # what it says nothing of is the default
    assert recipe(config) == recipe(config, "teacher.recipe.") == mine
