"""Dotted keys: what stands at one, in a config of OmegaConf's or in plain containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


def node(cfg: DictConfig, key: str) -> Any:
    """Returns what stands at ``key``, None where nothing does."""
    try:
        return OmegaConf.select(cfg, key) if key else cfg
    except OmegaConfBaseException:
        return None


def has(cfg: DictConfig, key: str) -> bool:
    """Whether ``key`` stands in ``cfg``, be it null."""
    parent, _, name = key.rpartition(".")
    holder = node(cfg, parent)
    if OmegaConf.is_list(holder):
        return name.isdigit() and int(name) < len(holder)
    return OmegaConf.is_dict(holder) and name in holder


def dotted(cfg: DictConfig, prefix: str = "") -> list[str]:
    """Returns the dotted keys of ``cfg``, groups of keys included."""
    keys = []
    for key in map(str, cfg):
        if key != "_target_":
            keys.append(f"{prefix}{key}")
            value = cfg._get_node(key)
            keys += dotted(value, f"{prefix}{key}.") if isinstance(value, DictConfig) and value else []
    return keys


def leaves(base: DictConfig, key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields keys and values of which ``value`` consists, as far as it merges into a group of keys of ``base``."""
    if isinstance(value, dict) and OmegaConf.is_dict(node(base, key)):
        for name, item in value.items():
            yield from leaves(base, f"{key}.{name}", item)
    else:
        yield key, value


def dig(plain: Any, key: str) -> Any:
    """Returns what stands at the dotted ``key`` of plain containers, None where nothing does."""
    for part in key.replace("[", ".").replace("]", "").split("."):
        if isinstance(plain, list) and part.isdigit() and int(part) < len(plain):
            plain = plain[int(part)]
        else:
            plain = plain.get(part) if isinstance(plain, dict) else None
    return plain
