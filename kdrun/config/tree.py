"""Dotted keys: the values at them, in a config of OmegaConf or in plain containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def node(cfg: DictConfig, key: str) -> Any:
    """Returns the value at ``key``; None if there is none."""
    try:
        return OmegaConf.select(cfg, key) if key else cfg
    except OmegaConfBaseException:
        return None


def has(cfg: DictConfig, key: str) -> bool:
    """Whether ``key`` exists in ``cfg``, even if its value is null."""
    parent, _, name = key.rpartition(".")
    holder = node(cfg, parent)
    if OmegaConf.is_list(holder):
        return name.isdigit() and int(name) < len(holder)
    return OmegaConf.is_dict(holder) and name in holder


def dotted(cfg: DictConfig, prefix: str = "") -> list[str]:
    """Returns the dotted keys of ``cfg``, including groups of keys."""
    keys = []
    for key in map(str, cfg):
        if key != "_target_":
            keys.append(f"{prefix}{key}")
            value = cfg._get_node(key)
            keys += dotted(value, f"{prefix}{key}.") if isinstance(value, DictConfig) and value else []
    return keys


def leaves(base: DictConfig, key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the keys and values of ``value``, split as far as they merge into groups of keys of ``base``."""
    if isinstance(value, dict) and OmegaConf.is_dict(node(base, key)):
        for name, item in value.items():
            yield from leaves(base, f"{key}.{name}", item)
    else:
        yield key, value


def dig(plain: Any, key: str) -> Any:
    """Returns the value at the dotted ``key`` of plain containers; None if there is none."""
    for part in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(plain, list) and part.isdigit() and int(part) < len(plain):
            plain = plain[int(part)]
        else:
            plain = plain.get(part) if isinstance(plain, dict) else None
    return plain
