"""Where YAML files are looked for: shipped ones first, then the user's own and those of installed plugins."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

PACKAGE = Path(__file__).resolve().parent.parent
CONF = next(
    (place for place in (PACKAGE / "conf", PACKAGE.parent / "conf") if (place / "train.yaml").is_file()),
    PACKAGE / "conf",
)
"""The shipped YAML files: inside the package in a wheel, beside it in a checkout."""


class OwnConf(SearchPathPlugin):
    """Adds ``conf/`` of the working directory and every entry point of the group ``kdrun.conf``.

    They come after the shipped files, so that a file of the same name cannot replace one unnoticed.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        own = Path.cwd() / "conf"
        if own.is_dir() and own.resolve() != CONF:
            search_path.append("cwd", f"file://{own}")
        for entry in entry_points(group="kdrun.conf"):
            search_path.append(entry.name, f"pkg://{entry.value}")


def register() -> None:
    """Makes Hydra ask ``OwnConf`` wherever it makes a search path in this process."""
    Plugins.instance().register(OwnConf)
