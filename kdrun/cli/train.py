"""``kdrun train``: starts one run or a sweep, or prints the config."""

from __future__ import annotations

import sys

from hydra.types import RunMode
from omegaconf import OmegaConf

from kdrun.cli.flags import Flags, parse
from kdrun.cli.folder import new_folder
from kdrun.cli.launch import launch
from kdrun.cli.resume import recorded, wanted
from kdrun.cli.sweep import run_sweep
from kdrun.config.choices import is_choice
from kdrun.config.compose import Composer
from kdrun.errors import ConfigError


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
    if flags.for_hydra():
        return launch(print, [*flags.for_hydra(), *flags.overrides], flags.config_dir)
    composer = Composer(flags.config_dir)
    if flags.cfg:
        return print_config(composer, flags)
    resumed = wanted(composer.options, flags.overrides)
    if is_sweep(composer, flags):
        if resumed:
            raise ConfigError("resume", "goes on with one run, not with a sweep; leave -m out")
        return run_sweep(composer, flags)
    if resumed:
        config, folder, overrides = recorded(composer.options, resumed, flags.overrides)
    else:
        overrides = flags.overrides
        config = composer.compose(overrides)
        folder = new_folder(config, f"{config['dataset']['name']}_{config['method']['name']}")
    from kdrun.run.run import run  # here, so that earlier errors do not wait for torch

    run(config, folder, overrides)
    return 0


def print_config(composer: Composer, flags: Flags) -> int:
    """Prints the composed config; ``${...}`` is kept unless ``--resolve`` is given."""
    config = composer.compose(flags.overrides)
    cfg = OmegaConf.create(config) if flags.resolve else composer.merge(flags.overrides)[0]
    sys.stdout.write(OmegaConf.to_yaml(cfg))
    return 0


def is_sweep(composer: Composer, flags: Flags) -> bool:
    """Whether ``-m`` is given, or a chosen YAML file makes the run a sweep."""
    if flags.multirun:
        return True
    options = composer.options
    parsed = map(options.parse, options.spell(flags.overrides))
    choices = [options.first(override) for override in parsed if is_choice(override)]
    return bool(options.chosen(choices).hydra.mode == RunMode.MULTIRUN)
