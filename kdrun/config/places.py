"""The search path of YAML files: shipped ones first, then the user's own and those of installed plugins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath, SearchPathElement
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from kdrun.config.sources import Conf, Roles
from kdrun.errors import ConfigError

PACKAGE = Path(__file__).resolve().parent.parent
CONF = next(
    (place for place in (PACKAGE / "conf", PACKAGE.parent / "conf") if (place / "train.yaml").is_file()),
    PACKAGE / "conf",
)
"""The shipped YAML files: inside the package in a wheel, beside it in a checkout."""

CONFIG_DIR: ContextVar[Path | None] = ContextVar("config_dir", default=None)
"""A folder of further YAML files, for the search paths that are made inside ``searching``."""


class UserConf(SearchPathPlugin):
    """Adds ``conf/`` of the working directory, every entry point of the group ``kdrun.conf``, and ``CONFIG_DIR``.

    They come after the shipped files, so that a file of the same name cannot replace one unnoticed. Models as teachers
    and students come last, so that the user's own file of a teacher has priority over a model.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Puts each place on the search path twice: with its files, and with the roles of its models."""
        elements = search_path.get_path()
        shipped = [element for element in elements if element.provider == "main"]
        elements[:] = [element for element in elements if element.provider != "main"]
        for group in (shipped, [SearchPathElement(*place) for place in own_places()]):
            for kind in (Conf, Roles):
                for element in group:
                    search_path.append(str(element.provider), f"{kind.scheme()}://{with_scheme(str(element.path))}")


def own_places() -> Iterator[tuple[str, str]]:
    """Yields the provider and the path of each place with further files."""
    own, config_dir = Path.cwd() / "conf", CONFIG_DIR.get()
    if own.is_dir() and own.resolve() != CONF:
        yield "cwd", str(own)
    for entry in entry_points(group="kdrun.conf"):
        yield entry.name, f"pkg://{entry.value}"
    if config_dir is not None:
        yield "command-line", str(config_dir.absolute())


def with_scheme(path: str) -> str:
    """Returns ``path``; the path of a folder gets the scheme ``file://``."""
    return path if "://" in path else f"file://{path}"


@contextmanager
def searching(config_dir: Path | None) -> Iterator[None]:
    """Makes Hydra search kdrun's places and ``config_dir``, for all search paths made inside the context.

    Raises:
        ConfigError: if there is no such folder.
    """
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError("--config-dir", f"no folder {str(config_dir)!r}")
    for plugin in (Conf, Roles, UserConf):
        Plugins.instance().register(plugin)
    token = CONFIG_DIR.set(config_dir)
    try:
        yield
    finally:
        CONFIG_DIR.reset(token)
