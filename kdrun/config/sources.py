"""Sources of Hydra for a folder of YAML files: its options, and each model as student and as teacher."""

from __future__ import annotations

import re
import warnings
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from kdrun.config.defaults import check_file, stays_inside
from kdrun.config.yaml_text import BYTES, parse_yaml, read_yaml

ROLES = ("student", "teacher")
"""Groups whose options come from ``model/``."""

BASE = "_"
"""First character of the name of a base file: other files build on it, and it cannot be chosen."""

OPTION = re.compile(r"\w[\w.+@-]*")
"""A name that an override can say without quotes."""

HEADER = 4096
"""Characters of a file in which its first comment is looked for."""


class Conf(ConfigSource):
    """A folder, or a package, of YAML files: ``conf://file:///home/me/conf``, ``conf://pkg://plugin.conf``.

    Base files are not among its options. A model's ``recipe: NAME`` is removed: it defines how a teacher is trained and
    is no argument of the model's class.
    """

    @staticmethod
    def scheme() -> str:
        """Returns the scheme with which the path begins."""
        return "conf"

    def __init__(self, provider: str, path: str) -> None:
        super().__init__(provider, path)
        self.inner = SourcesRegistry.instance().resolve(self.path.partition("://")[0])(provider, self.path)

    def load_config(self, config_path: str) -> ConfigResult:
        """Returns the content of a file, read within bounds and checked.

        Raises:
            ConfigError: naming the file, if it is no config or holds what a file must not.
        """
        if not self.is_config(config_path):
            raise ConfigLoadError(f"no file {config_path}.yaml")
        plain, header = self.content(config_path)
        if config_path.startswith("model/"):
            plain.pop("recipe", None)
        config = OmegaConf.create(plain)
        return ConfigResult(self.provider, f"{self.inner.scheme()}://{self.inner.path}", config, header)

    def content(self, config_path: str) -> tuple[dict[str, Any], dict[str, str | None]]:
        """Returns the keys of a file, and what its first comments say of its package."""
        resource = self._resource(config_path)
        name = self.file(config_path)
        if isinstance(resource, Path):
            plain = read_yaml(resource)
        else:
            with resource.open("rb") as file:
                plain = parse_yaml(file.read(BYTES + 1), name)
        header = self._get_header_dict(resource.read_text("utf-8")[:512])
        if self.provider != "main":
            check_file(plain, header["package"], config_path, name)
        return plain, header

    def file(self, config_path: str) -> str:
        """Returns what an error calls a file."""
        return str(self._resource(config_path))

    def _resource(self, config_path: str) -> Any:
        inner = self.inner
        root: Any = files(inner.path) if inner.scheme() == "pkg" else Path(inner.path)
        return root.joinpath(self._normalize_file_name(config_path))

    def available(self) -> bool:
        """Whether there is such a folder."""
        return self.inner.available()

    def is_group(self, config_path: str) -> bool:
        """Whether there are files under ``config_path``."""
        return stays_inside(config_path) and self.inner.is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        """Whether there is such a file."""
        return stays_inside(config_path) and self.inner.is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Returns the names under ``config_path`` that an override can say, except those of base files."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Hydra warns of files called .yml, which it lists but does not load
            names = [name for name in self.inner.list(config_path, results_filter) if OPTION.fullmatch(name)]
        wanted = [name for name in names if not name.startswith(BASE)]
        if results_filter is ObjectType.CONFIG:
            return [name for name in wanted if Conf.is_config(self, f"{config_path}/{name}")]
        return wanted

    def header(self, config_path: str) -> str:
        """Returns the first comment line of a file, which describes the option."""
        with self._resource(config_path).open(encoding="utf-8", errors="replace") as file:
            lines = file.read(HEADER).splitlines()
        comments = (line.lstrip("# ") for line in lines if line.startswith("#"))
        return next((line for line in comments if not line.startswith("@package")), "")


class Roles(Conf):
    """Provides ``student/NAME`` and ``teacher/NAME`` for every ``model/NAME``; a teacher includes its recipe."""

    @staticmethod
    def scheme() -> str:
        """Returns the scheme with which the path begins."""
        return "roles"

    def load_config(self, config_path: str) -> ConfigResult:
        """Returns the content of a file of its own: the model, and for a teacher the choice of its recipe."""
        role, _, name = config_path.partition("/")
        defaults = [{"/model@_here_": name}]
        if role == "teacher" and (recipe := self.recipe(name)):
            defaults.append({"override /recipe@recipe": recipe})
        return ConfigResult(
            self.provider, self.full_path(), OmegaConf.create({"defaults": defaults}), {"package": None}
        )

    def recipe(self, model: str) -> str | None:
        """Returns the name of the recipe in a model's file; None if there is none.

        Raises:
            ConfigLoadError: if the recipe is not a name.
        """
        recipe = self.content(f"model/{model}")[0].get("recipe")
        if not isinstance(recipe, str | None):
            raise ConfigLoadError(f"model/{model}.yaml: recipe: {recipe} is not the name of a recipe")
        return recipe

    def is_group(self, config_path: str) -> bool:
        """Whether ``config_path`` is a role, or a folder of models in a role."""
        return stays_inside(config_path) and _is_role(config_path) and self.inner.is_group(_model(config_path))

    def is_config(self, config_path: str) -> bool:
        """Whether ``config_path`` is a role of a model."""
        return stays_inside(config_path) and _is_role(config_path) and self.inner.is_config(_model(config_path))

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
