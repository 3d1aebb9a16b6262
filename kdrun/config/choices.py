"""The overrides that choose an option by name, and the place in the config where the option goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hydra.core.override_parser.types import Override

from kdrun.config.root import GROUPS

SETTLED = ("method", "optimizer", "schedule", "teacher.recipe.optimizer", "teacher.recipe.schedule")
"""Places where the keys of an experiment belong to the experiment's own option. If the user chooses another option,
these keys are dropped: nobody chose that temperature or learning rate for it."""

RECIPES = {
    "recipe": ("epochs", "batch_size", "optimizer", "schedule"),
    "teacher.recipe": tuple(f"teacher.recipe.{key}" for key in ("epochs", "batch_size", "optimizer", "schedule")),
}
"""The places where a recipe is chosen, for the run and for the teacher, and the four places that it decides."""


def is_choice(override: Override) -> bool:
    """Whether ``override`` chooses an option of a group, or sets one of Hydra's own keys."""
    key = override.key_or_group
    chosen = key in GROUPS and not isinstance(override.value(), dict)
    return chosen or override.package is not None or key.startswith(("hydra/", "hydra."))


def package(choice: Override) -> str:
    """Returns the place where the option goes, such as ``method`` or ``teacher.recipe.optimizer``."""
    return str(choice.package or choice.key_or_group)


def changed(choices: Sequence[Override], theirs: Mapping[str, str]) -> dict[str, list[Override]]:
    """Returns each place whose chosen option differs from that of the files of an experiment or a recipe.

    Args:
        choices: the choices on the command line.
        theirs: the options in those files by place, in Hydra's notation: ``optimizer@teacher.recipe.optimizer``.

    Returns:
        For each such place, the choices that decide its content. A recipe decides four places, an option in ``SETTLED``
        decides its own place, and ``teacher=none`` decides the place of the teacher.
    """
    others = [choice for choice in choices if theirs.get(choice.get_key_element()) != choice.value()]
    places: dict[str, list[Override]] = {}
    for choice in others:
        for place in RECIPES.get(package(choice), ()):
            places[place] = [choice, *within(choices, place)]
    for choice in others:
        place = package(choice)
        is_settled = place in SETTLED or (place, choice.value()) == ("teacher", "none")
        if is_settled and place not in places:
            places[place] = within(choices, place)
    return places


def within(choices: Sequence[Override], place: str) -> list[Override]:
    """Returns the ``choices`` made at ``place`` and below it."""
    return [choice for choice in choices if is_within(package(choice), place)]


def is_within(key: str, place: str) -> bool:
    """Whether the option with Hydra's name ``key`` goes to ``place``, or below it."""
    return f"{key.rpartition('@')[2]}.".startswith(f"{place}.")


def settling(choices: Sequence[Override]) -> list[Override]:
    """Returns the ``choices`` whose files set keys of other options: an experiment, else a teacher, else recipes."""
    for places in (("experiment",), ("teacher",), tuple(RECIPES)):
        if deciding := [choice for choice in choices if package(choice) in places]:
            return deciding
    return []
