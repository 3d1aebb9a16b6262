"""``kdrun train``: starts one run or a sweep, or prints the config."""

from __future__ import annotations

import os
import re
import sys

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from kdrun.cli.flags import Flags, parse
from kdrun.cli.folder import new_folder
from kdrun.cli.launch import launch
from kdrun.cli.resume import recorded, wanted
from kdrun.cli.sweep import run_sweep
from kdrun.config.choices import is_choice
from kdrun.config.compose import LABELLED, Composer
from kdrun.config.suggest import did_you_mean
from kdrun.config.tree import dotted, has, node
from kdrun.errors import ConfigError

LABEL = re.compile(r"^ +(- )?name: .*$", re.MULTILINE)
"""The line of a label in a printed config; the root's own ``name`` is a key, and is not indented."""


def main(argv: list[str]) -> int:
    """Runs ``kdrun train`` with the arguments ``argv`` and returns the exit code.

    Raises:
        KdrunError: before or while training.
    """
    flags = parse(argv)
    if flags.help:
        from kdrun.cli.usage import train_usage

        print(train_usage(flags.config_dir))
        return 0
    composer = Composer(flags.config_dir)
    if flags.cfg in (None, "job") and (flags.cfg or flags.package):
        return print_config(composer, flags)
    if flags.for_hydra():
        check_words(composer, flags)
        return launch(print, [*flags.for_hydra(), *flags.overrides], flags.config_dir)
    resumed = wanted(composer.options, flags.overrides)
    if is_sweep(composer, flags):
        if resumed:
            raise ConfigError("resume", "goes on with one run, not with a sweep; leave -m out")
        find_own_classes()
        return run_sweep(composer, flags)
    if resumed:
        config, folder, overrides = recorded(composer.options, resumed, flags.overrides)
    else:
        overrides = flags.overrides
        config = composer.compose(overrides)
        folder = new_folder(config, f"{config['dataset']['name']}_{config['method']['name']}")
    find_own_classes()
    from kdrun.run.run import run  # here, so that earlier errors do not wait for torch

    run(config, folder, overrides, resumes=resumed is not None)
    return 0


def find_own_classes() -> None:
    """Puts the working directory on the path of modules, so that an installed script finds the user's own classes.

    It comes last: a file there must not replace an installed module. Nothing but a run needs it.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())


def print_config(composer: Composer, flags: Flags) -> int:
    """Prints the composed config, or the part at ``--package``; ``${...}`` is kept unless ``--resolve`` is given."""
    config = composer.compose(flags.overrides)
    cfg = OmegaConf.create(config) if flags.resolve else composer.merge(flags.overrides)[0]
    if flags.package:
        check_package(cfg, flags.package)
        cfg = OmegaConf.create({flags.package: node(cfg, flags.package)})
    sys.stdout.write(LABEL.sub(rf"\g<0>  # {LABELLED}", OmegaConf.to_yaml(cfg)))
    return 0


def check_words(composer: Composer, flags: Flags) -> None:
    """Checks the words of a command line that Hydra itself answers: it obeys all of its own keys.

    Raises:
        ConfigError: as a run with these words would, as far as its options are concerned.
    """
    options = composer.options
    parsed = [options.parse(word) for word in options.spell(flags.overrides)]
    chosen = options.chosen([options.first(override) for override in parsed if is_choice(override)])
    if flags.package:
        check_package(OmegaConf.create({**chosen.cfg, "hydra": chosen.hydra}), flags.package)


def check_package(cfg: DictConfig, package: str) -> None:
    """Refuses a ``package`` that is no key of ``cfg``.

    Raises:
        ConfigError: naming the flag.
    """
    if not has(cfg, package):
        raise ConfigError("--package", f"no {package!r} in the config{did_you_mean(package, dotted(cfg))}")


def is_sweep(composer: Composer, flags: Flags) -> bool:
    """Whether ``-m`` is given, or a chosen YAML file makes the run a sweep."""
    if flags.multirun:
        return True
    options = composer.options
    parsed = map(options.parse, options.spell(flags.overrides))
    choices = [options.first(override) for override in parsed if is_choice(override)]
    return bool(options.chosen(choices).hydra.mode == RunMode.MULTIRUN)
