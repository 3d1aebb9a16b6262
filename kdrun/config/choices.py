"""The overrides that choose an option by name, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Override

from kdrun.config.root import GROUPS

SETTLED = ("method", "optimizer", "schedule", "teacher.recipe.optimizer", "teacher.recipe.schedule")
"""Places where an experiment's keys are its own option's: under another, its temperature or learning rate would be one
that nobody chose for it."""


def is_choice(override: Override) -> bool:
    """Whether ``override`` chooses an option of a group, or sets something of Hydra's own."""
    key = override.key_or_group
    chosen = key in GROUPS and not isinstance(override.value(), dict)
    return chosen or override.package is not None or key.startswith(("hydra/", "hydra."))


def package(choice: Override) -> str:
    """Returns where the option goes: ``method``, or ``teacher.recipe.optimizer``."""
    return str(choice.package or choice.key_or_group)


def changed(choices: Sequence[Override], theirs: Mapping[str, str]) -> dict[str, list[Override]]:
    """Returns each place of ``SETTLED`` where another option than an experiment's is chosen.

    Args:
        choices: on the command line.
        theirs: the experiment's options by place, as Hydra names places: ``optimizer@teacher.recipe.optimizer``.

    Returns:
        For each such place the choices made there and below it.
    """
    found = {}
    for choice in choices:
        place = package(choice)
        if place in SETTLED and theirs.get(choice.get_key_element()) != choice.value():
            found[place] = [one for one in choices if f"{package(one)}.".startswith(f"{place}.")]
    return found
