"""How Hydra reads a folder of YAML files: its options, and the two roles that each of its models can play."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

ROLES = ("student", "teacher")
"""Groups that are served from ``model/``."""

BASE = "_"
"""What the name of a base file begins with: others build on it, nobody chooses it."""


class Conf(ConfigSource):
    """A folder, or a package, of YAML files: ``conf://file:///home/me/conf``, ``conf://pkg://plugin.conf``.

    Base files are not among its options. A model's ``recipe: NAME`` is taken off: it says how a teacher is trained and
    is no argument of the model's class.
    """

    @staticmethod
    def scheme() -> str:
        """Returns what the path begins with."""
        return "conf"

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.inner = SourcesRegistry.instance().resolve(self.path.partition("://")[0])(provider, self.path)

    def load_config(self, config_path: str) -> ConfigResult:
        """Returns what a file says."""
        loaded = self.inner.load_config(config_path)
        if config_path.startswith("model/") and isinstance(loaded.config, DictConfig):
            loaded.config.pop("recipe", None)
        return loaded

    def available(self) -> bool:
        """Whether there is such a folder."""
        return self.inner.available()

    def is_group(self, config_path: str) -> bool:
        """Whether there are files under ``config_path``."""
        return self.inner.is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a file."""
        return self.inner.is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Returns the names under ``config_path``, but those of base files."""
        return [name for name in self.inner.list(config_path, results_filter) if not name.startswith(BASE)]

    def header(self, config_path: str) -> str:
        """Returns the first comment line of a file, which says in one line what it is."""
        inner = self.inner
        root: Any = files(inner.path) if inner.scheme() == "pkg" else Path(inner.path)
        lines = root.joinpath(f"{config_path}.yaml").read_text("utf-8").splitlines()
        comments = (line.lstrip("# ") for line in lines if line.startswith("#"))
        return next((line for line in comments if not line.startswith("@package")), "")


class Roles(Conf):
    """Serves ``student/NAME`` and ``teacher/NAME`` for every ``model/NAME``; a teacher comes with its recipe."""

    @staticmethod
    def scheme() -> str:
        """Returns what the path begins with."""
        return "roles"

    def load_config(self, config_path: str) -> ConfigResult:
        """Returns what a file of its own would say: the model, and for a teacher the choice of its recipe."""
        role, _, name = config_path.partition("/")
        defaults = [{"/model@_here_": name}]
        if role == "teacher" and (recipe := self.recipe(name)):
            defaults.append({"override /recipe@recipe": recipe})
        return ConfigResult(
            self.provider, self.full_path(), OmegaConf.create({"defaults": defaults}), {"package": None}
        )

    def recipe(self, model: str) -> str | None:
        """Returns the name of the recipe that a model's file names.

        Raises:
            ConfigLoadError: if it is no name.
        """
        config = self.inner.load_config(f"model/{model}").config
        recipe = config.get("recipe") if isinstance(config, DictConfig) else None
        if not isinstance(recipe, str | None):
            raise ConfigLoadError(f"model/{model}.yaml: recipe: {recipe} is not the name of a recipe")
        return recipe

    def is_group(self, config_path: str) -> bool:
        """Whether ``config_path`` is a role, or stands for folders of models in one."""
        return _is_role(config_path) and self.inner.is_group(_model(config_path))

    def is_config(self, config_path: str) -> bool:
        """Whether ``config_path`` is a role of a model."""
        return _is_role(config_path) and self.inner.is_config(_model(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Returns the names of the models in a role."""
        return super().list(_model(config_path), results_filter)

    def header(self, config_path: str) -> str:
        """Returns the first comment line of the model's file."""
        return super().header(_model(config_path))


def _is_role(config_path: str) -> bool:
    return config_path.partition("/")[0] in ROLES


def _model(config_path: str) -> str:
    return "/".join(["model", *config_path.split("/")[1:]])
