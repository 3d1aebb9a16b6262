"""Composes overrides, as on the command line, into one plain, resolved and checked dict."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any
from unicodedata import normalize

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kdrun.config.choices import is_choice
from kdrun.config.interpolations import check_expansion
from kdrun.config.options import Options
from kdrun.config.root import check_root
from kdrun.config.suggest import did_you_mean, nearest
from kdrun.config.tree import dig, dotted, has, leaves, node
from kdrun.config.values import show
from kdrun.errors import ConfigError

TEXTS = ("name", "out", "resume")
"""Root keys whose value is text even if it looks like a number: ``name=007``."""

LABELLED = "the option that was chosen, not a key"
"""What is said of the name of a node where a config is printed."""

MODEL, MODELS = ("new_teacher",), ("assistants", "students")
"""Keys of a method whose value is a model, or a list of models; models are named as in the group ``model``."""

METHODS = ("parts",)
"""Keys of a method whose value is a list of methods: names, or ``{name: NAME, KEY: VALUE}`` to change arguments."""


def compose(overrides: Sequence[str] = (), config_dir: Path | None = None) -> dict[str, Any]:
    """Returns the config of the run that ``overrides`` ask for.

    It is plain and resolved. Every node that was chosen by name (dataset, teacher, student, method, both optimizers and
    schedules, a method nested in another) carries that name under ``name``, and ``experiment`` holds the experiment's
    name. Strings under ``MODEL``, ``MODELS`` and ``METHODS`` of a method are replaced by what they name.
    ``method.base=fitnets`` and ``teacher.recipe.optimizer=sgd`` choose options like ``method=kd`` does.

    Args:
        overrides: ``key=value``, ``group=option`` and ``+key=value``, in Hydra's grammar, without sweeps.
        config_dir: a folder of further YAML files.

    Raises:
        ConfigError: if an override cannot be parsed, if a key or an option is unknown, or if a value of the root,
            of the teacher's node or of its recipe is of the wrong type or out of range. The arguments of classes are
            not checked, since that needs an import of torch.
    """
    return Composer(config_dir).compose(overrides)


class Composer:
    """Composes many runs, for a sweep: the part that depends only on the chosen options is composed once.

    Args:
        config_dir: a folder of further YAML files.
    """

    def __init__(self, config_dir: Path | None = None) -> None:
        self.options = Options(config_dir)

    def compose(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Returns the config of one run, as the function ``compose`` does."""
        cfg, choices = self.merge(overrides)
        check_expansion(OmegaConf.to_container(cfg, resolve=False))
        config: dict[str, Any] = name_first(resolve(cfg))
        config["experiment"] = choices.get("experiment")
        if type(config["name"]) in (int, float, str):  # a number if it is ${seed}
            config["name"] = normalize("NFC", str(config["name"]))  # names that look the same must be one folder
        teacher = config["teacher"]
        if isinstance(teacher, dict) and teacher.get("table") is False:  # what YAML makes of the word off
            teacher["table"] = "off"
        self._expand(config["method"], "method")
        check_root(config)
        return config

    def merge(self, overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
        """Returns the config before its interpolations are resolved, and the option chosen at each place."""
        parsed = [self.options.parse(override) for override in self.options.spell(overrides)]
        for override in parsed:
            if override.is_sweep_override():
                raise ConfigError(override.key_or_group, "several values need -m")
        base, choices, _ = self.options.chosen([override for override in parsed if is_choice(override)])
        for key in ("trust", "resume"):
            if base[key]:
                raise ConfigError(key, "is taken from the command line only, not from a file")
        cfg = deepcopy(base)
        for override in parsed:
            if not is_choice(override):
                put(cfg, base, override)
        for package, name in option_names(choices).items():
            if OmegaConf.is_dict(node(cfg, package)):  # before anything is resolved: name=${method.name}
                OmegaConf.update(cfg, f"{package}.name", name, force_add=True)
        return cfg, choices

    def _expand(self, node: Any, where: str, around: tuple[str, ...] = ()) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            place = f"{where}.{key}"
            if key in MODELS and isinstance(value, list):
                node[key] = [self._model(item, place) for item in value]
            elif key in METHODS and isinstance(value, list):
                node[key] = [self._method(item, f"{place}[{number}]", around) for number, item in enumerate(value)]
            elif key in MODEL:
                node[key] = self._model(value, place)
            elif key not in MODELS:
                self._expand(value, place, around)

    def _method(self, item: Any, where: str, around: tuple[str, ...]) -> Any:
        """Returns the node of the method that ``item`` names; it is a part of those named in ``around``."""
        changes = item if isinstance(item, dict) else {}
        if "_target_" in changes:
            self._expand(item, where, around)
            return item
        name: Any = changes.get("name") if changes else item
        self.options.check_option("method", name, where)
        if name in around:
            raise ConfigError(where, f"{name} is a part of itself; take it out")
        node = name_first(resolve(self.merge([f"method={name}"])[0])["method"])
        self._expand(node, where, (*around, name))
        return changed(node, changes, where)

    def _model(self, name: Any, where: str) -> Any:
        return {"name": name, **self.options.model(name, where)} if isinstance(name, str) else name


def changed(node: dict[str, Any], changes: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns ``node`` with the values of ``changes``, key by key as far as both are groups of keys.

    Raises:
        ConfigError: if ``node`` has no such key.
    """
    result = dict(node)
    for key, value in changes.items():
        if key not in node:
            raise ConfigError(f"{where}.{key}", f"unknown key{did_you_mean(str(key), node)}")
        old = node[key]
        if isinstance(value, dict) and isinstance(old, dict):
            value = changed(old, value, f"{where}.{key}")
        result[key] = float(value) if type(value) is int and isinstance(old, float) else value  # as ``put`` does
    return result


def put(cfg: DictConfig, base: DictConfig, override: Override) -> None:
    """Sets the key and value of ``override`` in ``cfg``, if the key is in ``base``, the content of the files.

    Raises:
        ConfigError: if it is not, and is not added with ``+`` to a class outside kdrun or to a group of keys without a
            class.
    """
    raw = str(override.input_line).partition("=")[2]
    for key, value in leaves(base, override.key_or_group, override.value()):
        if not has(base, key):
            check_new(base, key, added=override.is_add() or override.is_force_add())
        if key in TEXTS and type(value) in (int, float):
            value = raw
        elif type(value) is int and isinstance(OmegaConf.select(base, key), float):
            value = float(value)  # 4 and 4.0 are the same temperature, and must give the same key in the store
        try:
            OmegaConf.update(cfg, key, value, merge=False, force_add=True)
        except (OmegaConfBaseException, TypeError, ValueError, AttributeError) as fault:
            raise ConfigError(key, f"cannot be set to {show(value)}") from fault


def check_new(base: DictConfig, key: str, added: bool) -> None:
    """Refuses a ``key`` that the files lack, unless it may be added.

    The YAML file of a kdrun class lists all its arguments. The files of other classes list only the useful ones, so
    keys may be added; whether the class takes the key is checked later, against its signature.
    """
    parent = node(base, key.rpartition(".")[0])
    maker = parent.get("_target_") if OmegaConf.is_dict(parent) else None
    foreign = isinstance(maker, str) and not maker.startswith("kdrun.")
    inner = parent is not base and maker is None and OmegaConf.is_dict(parent)
    if not (added and (foreign or inner)):
        meant = did_you_mean(key, dotted(base))
        label = nearest(key, sorted([*dotted(base), *labels(base)]))
        if label in labels(base):
            choice = f"it is the name of the option that was chosen, set with {label.rpartition('.')[0]}=NAME"
            what = "is no key:" if label == key else f"unknown key; did you mean {label!r}?"
            raise ConfigError(key, f"{what} {choice}")
        raise ConfigError(key, f"unknown key{meant or (f'; +{key}= adds one' if foreign else '')}")


def labels(base: DictConfig) -> list[str]:
    """Returns the keys of the names of options, which a printed config has beside the keys that can be set."""
    makers = [key for key in dotted(base) if OmegaConf.is_dict(part := node(base, key)) and "_target_" in part]
    return [f"{key}.name" for key in makers]


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Returns ``cfg`` as plain containers, with every ``${...}`` replaced by its value.

    Raises:
        ConfigError: naming the key whose interpolation has no value.
    """
    try:
        config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as fault:
        key = fault.full_key if isinstance(fault.full_key, str) else "config"
        plain = OmegaConf.to_container(cfg, resolve=False)
        raise ConfigError(key, f"no value for {dig(plain, key)}") from fault
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def option_names(choices: dict[str, str]) -> dict[str, str]:
    """Returns the name of the option at each place; a teacher's name replaces that of the model it refers to.

    An experiment and a recipe set keys of several places and name none of them.
    """
    names: dict[str, str] = {}
    for key in sorted(choices, key=lambda key: key.startswith("model@")):
        group, _, package = key.partition("@")
        if choices[key] and group not in ("experiment", "recipe"):
            names.setdefault(package or group, str(choices[key]).rpartition("/")[2])
    return names


def name_first(value: Any) -> Any:
    """Returns plain ``value`` with the name of each node before its other keys, where readers expect it."""
    if isinstance(value, list):
        return [name_first(item) for item in value]
    if not isinstance(value, dict):
        return value
    named = {"name": value["name"]} if "_target_" in value and "name" in value else {}
    return named | {key: name_first(item) for key, item in value.items()}
