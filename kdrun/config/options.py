"""The options of each group, and the config that chosen options give; all uses of Hydra's config loader."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError  # type: ignore[import-untyped]

from kdrun.config.choices import changed, is_choice, is_within, package, settling
from kdrun.config.defaults import stays_inside
from kdrun.config.hydra_keys import check_composed, check_word
from kdrun.config.interpolations import check_expansion, check_interpolations
from kdrun.config.places import CONF, searching
from kdrun.config.quoting import PATHS, quote, takes_text
from kdrun.config.root import GROUPS
from kdrun.config.sources import BASE, Conf
from kdrun.config.suggest import FIELD, did_you_mean
from kdrun.config.tree import has
from kdrun.config.values import CONTROL, show
from kdrun.errors import ConfigError

LETTERS = 4096
"""Longest word of the command line."""
BRACKETS = 32
"""Deepest nesting of brackets in a word: Hydra parses them by recursion."""


class Chosen(NamedTuple):
    """The result of composing the options that are chosen by name."""

    cfg: DictConfig
    """The run's config as in the files; ``${...}`` is not resolved."""
    names: dict[str, str]
    """The option chosen at each place: ``method`` or ``optimizer@teacher.recipe.optimizer``."""
    hydra: DictConfig
    """Hydra's own part: its mode, its sweeper and the parameters of a sweep."""


class Options:
    """Hydra's loader for the shipped YAML files, the user's own and those of plugins.

    Args:
        config_dir: a folder of further YAML files.

    Raises:
        ConfigError: if there is no such folder.
    """

    def __init__(self, config_dir: Path | None = None) -> None:
        setup_globals()
        with searching(config_dir):
            self.loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
        self.parser = OverridesParser.create(config_loader=self.loader)
        self._chosen: dict[tuple[str, ...], Chosen] = {}
        self._plain: DictConfig | None = None
        self._words: dict[str, Override | None] = {}  # Hydra takes milliseconds for a word, seconds for a long one

    def parse(self, override: str) -> Override:
        """Returns ``override`` parsed.

        Raises:
            ConfigError: if it cannot be parsed, if it removes a key, or if it sets a key that only kdrun sets.
        """
        key = override.partition("=")[0].strip().lstrip("+~") or "command line"
        check_text(key, override)
        quoted = quote(override)
        parsed = self._parsed(override) or (takes_text(override) and self._parsed(quoted)) or None
        if parsed is None or not parsed.key_or_group:
            helps = len(quoted) <= 200 and key != "command line" and self._parsed(quoted)
            way_out = f'; in quotes: "{quoted}"' if helps else ""
            raise ConfigError(show(key).strip("'"), f"cannot parse {show(override)}{way_out}")
        if parsed.is_sweep_override() and key in PATHS and Path(override.partition("=")[2]).exists():
            return self.parse(quoted)  # the comma is part of a file's name
        check_interpolations(override, key)
        if parsed.is_delete():
            way_out = "; choose teacher=none" if key == "teacher" else ""
            raise ConfigError(key, f"cannot be taken away{way_out}")
        check_word(parsed.key_or_group, parsed.package, parsed.value())
        return parsed

    def _parsed(self, override: str) -> Override | None:
        if override not in self._words:
            try:
                self._words[override] = self.parser.parse_overrides([override])[0]
            except (HydraException, ValueError, RecursionError):  # a number of too many digits, too many brackets
                self._words[override] = None
        return self._words[override]

    def names(self, group: str) -> list[str]:
        """Returns the names of the options of ``group``, in order."""
        return sorted(self.loader.get_group_options(group))

    def spell(self, overrides: Sequence[str]) -> list[str]:
        """Returns ``overrides`` with ``method.base=kd`` in Hydra's notation: ``method@method.base=kd``.

        The same is done for every place where a defaults list puts an option, such as
        ``optimizer@teacher.recipe.optimizer``. In a sweep, the first value of each override decides which places there
        are.

        Raises:
            ConfigError: if an override cannot be parsed, or if ``experiment`` is given twice.
        """
        spelled = list(overrides)
        experiments = [word.partition("=")[2] for word in spelled if word.lstrip("+").startswith("experiment=")]
        if len(experiments) > 1:
            raise ConfigError("experiment", f"given {len(experiments)} times: {', '.join(experiments)}; give one")
        while True:
            parsed = [self.parse(override) for override in spelled]
            slots = self._slots([self.first(o) for o in parsed if is_choice(o)])
            renamed = [self._spelled(override, slots) for override in parsed]
            if renamed == spelled:
                return spelled
            spelled = renamed

    def nested(self, overrides: Sequence[str]) -> dict[str, str]:
        """Returns the group of each place below a group's own: ``{"teacher.recipe.optimizer": "optimizer"}``."""
        parsed = [self.parse(override) for override in self.spell(overrides)]
        slots = self._slots([self.first(override) for override in parsed if is_choice(override)])
        return {place: key.partition("@")[0] for place, key in slots.items()}

    def _slots(self, choices: Sequence[Override]) -> dict[str, str]:
        keys = self.chosen(choices).names
        packages = {key.partition("@")[2]: key for key in keys if "@" in key}
        return {package: key for package, key in packages.items() if package not in GROUPS}

    def _spelled(self, override: Override, slots: dict[str, str]) -> str:
        line = str(override.input_line)
        key = override.key_or_group
        if is_choice(override):
            return line.lstrip("+") if key in GROUPS else line
        if key in slots and not isinstance(override.value(), dict):
            return f"{slots[key]}={line.partition('=')[2]}"
        return line

    def first(self, override: Override) -> Override:
        """Returns ``override``, or if it sweeps over several values, the override for the first one.

        Raises:
            ConfigError: if there are no values.
        """
        if not override.is_discrete_sweep():
            return override
        value = next(swept(override), None)
        if value is None:
            raise ConfigError(override.key_or_group, f"{override.input_line!r} matches nothing")
        return self.parse(f"{override.get_key_element()}={value}")

    def chosen(self, choices: Sequence[Override]) -> Chosen:
        """Returns the content of the files of the chosen options; callers must not change it.

        Raises:
            ConfigError: if an option does not exist, or a file cannot be read.
        """
        lines = tuple(str(choice.input_line) for choice in choices)
        if lines not in self._chosen:
            for choice in choices:
                self._check_choice(choice)
            cfg = self._load("train", lines)
            with open_dict(cfg):
                hydra = cfg.pop("hydra")
            check_composed(hydra, self._usual())
            names = {key: value for key, value in hydra.runtime.choices.items() if not key.startswith("hydra/")}
            self._chosen[lines] = self._with_others(Chosen(cfg, names, hydra), choices)
        return self._chosen[lines]

    def _usual(self) -> DictConfig:
        if self._plain is None:
            self._plain = self._load("train", ()).hydra
        return self._plain

    def _with_others(self, chosen: Chosen, choices: Sequence[Override]) -> Chosen:
        """Returns ``chosen`` with the keys of each option that replaces one of an experiment, a recipe or a teacher."""
        first = settling(choices)
        if not first or len(choices) == len(first):
            return chosen
        names, others = chosen.names, [choice for choice in choices if choice not in first]
        for place, there in changed(others, self.chosen(first).names).items():
            if has(chosen.cfg, place):
                other = self.chosen(there)
                OmegaConf.update(chosen.cfg, place, OmegaConf.select(other.cfg, place), merge=False)
                names = {key: name for key, name in names.items() if not is_within(key, place)}
                names |= {key: name for key, name in other.names.items() if is_within(key, place)}
        return chosen._replace(names=names)

    def header(self, group: str, name: str) -> str:
        """Returns the first comment line of an option's file, which describes the option."""
        key, sources = f"{group}/{name}", self.loader.repository.get_sources()
        return next(source for source in sources if isinstance(source, Conf) and source.is_config(key)).header(key)

    def model(self, name: str, where: str) -> dict[str, Any]:
        """Returns the model of that name as a plain node."""
        self.check_option("model", name, where)
        content = self._load(f"model/{name}", ())
        check_expansion(OmegaConf.to_container(content, resolve=False))
        loaded = OmegaConf.to_container(content.model, resolve=True)
        assert isinstance(loaded, dict)
        return {str(key): value for key, value in loaded.items()}

    def _check_choice(self, choice: Override) -> None:
        group, where, value = choice.key_or_group, package(choice), choice.value()
        if group.startswith("hydra."):
            return
        if choice.is_sweep_override():
            raise ConfigError(where, "several values need -m")
        if isinstance(value, list):
            raise ConfigError(where, "takes one option, not a list")
        self.check_option(group, value, where)

    def check_option(self, group: str, name: Any, where: str) -> None:
        """Refuses a ``name`` that is no option of ``group``.

        Raises:
            ConfigError: naming ``where``.
        """
        if not self._is_option(group, name):
            names = self.names(group)
            meant = did_you_mean("none" if name is None else str(name), names) if not is_another(group, name) else ""
            many = f"kdrun ls {group if group in GROUPS else 'student'} lists all {len(names)}"
            have = f"have: {', '.join(names)}" if len(names) <= 12 else many
            raise ConfigError(where, f"no option {show(name)} ({have}){meant}")

    def _is_option(self, group: str, name: Any) -> bool:
        can_be = isinstance(name, str) and stays_inside(name) and not name.rpartition("/")[2].startswith(BASE)
        return can_be and self.loader.repository.config_exists(f"{group}/{name}")

    def _file(self, lines: Sequence[str]) -> str:
        """Returns the file of the first option chosen in ``lines`` that comes from a folder of the user's."""
        for group, _, name in (line.partition("=") for line in lines):
            for source in self.loader.repository.get_sources():
                if isinstance(source, Conf) and source.provider != "main" and source.is_config(f"{group}/{name}"):
                    return source.file(f"{group}/{name}")
        return ""

    def _load(self, name: str, lines: Sequence[str]) -> DictConfig:
        try:
            return self.loader.load_configuration(name, list(lines), RunMode.RUN)
        except MarkedYAMLError as fault:
            mark = fault.problem_mark
            where = f"{mark.name}:{mark.line + 1}" if mark else name
            raise ConfigError(where, f"cannot be read as YAML: {fault.problem}") from fault
        except RecursionError as fault:
            raise ConfigError(self._file(lines) or name, "its defaults lists lead back to it; take one out") from fault
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as fault:
            text = " ".join((str(fault) or str(fault.__cause__)).partition("Config search path")[0].split())
            text = re.sub(r"\w+ raised while composing config: | object_type=\w+", "", text)  # names of Python classes
            keys = [line.partition("=")[0].lstrip("+") for line in lines]
            raise ConfigError(next((key for key in keys if key in text), "config"), text) from fault


def is_another(group: str, name: Any) -> bool:
    """Whether ``name``, no option of ``group``, is what papers call another method: it is no slip for one of them."""
    return group == "method" and isinstance(name, str) and name in FIELD


def check_text(key: str, word: str) -> None:
    """Refuses a ``word`` of the command line that is too long or too deep to be parsed, or holds what no text holds.

    Raises:
        ConfigError: naming the ``key``, shortened.
    """
    where = CONTROL.sub("?", key[:80])
    if len(word) > LETTERS:
        raise ConfigError(where, f"a word of {len(word)} characters is too long; put it into a file")
    if CONTROL.search(word):
        raise ConfigError(where, "a control character, or one that is not UTF-8, is not allowed")
    depth = deepest = 0
    for letter in word:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    if deepest > BRACKETS:
        raise ConfigError(where, f"brackets nested deeper than {BRACKETS} are too deep")


def swept(override: Override) -> Iterator[str]:
    """Yields the values of ``override``, which sweeps over several.

    Raises:
        ConfigError: if Hydra cannot list them, as in ``range(0,10,0)``.
    """
    try:
        yield from override.sweep_string_iterator()
    except (ValueError, HydraException) as fault:
        raise ConfigError(override.key_or_group, f"{override.input_line!r} cannot be listed: {fault}") from fault
