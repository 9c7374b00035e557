"""Every job of a command is composed and checked before the first one loads anything."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from specdec.errors import ConfigError
from specdec.study.config import register

MULTIRUN = ("-m", "--multirun")
EXTRAS = {"ray": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm", "optuna": "optuna"}
"""Hydra's launcher or sweeper → the extra that brings its plugin."""
REPLACED = {"engine.adaptive": "policy=product (true) or policy=always (false)"}
"""Keys of older versions → what to write instead."""


def jobs(folder: str, name: str, words: Sequence[str]) -> list[DictConfig]:
    """The configuration of every job that a command line stands for.

    Args:
        folder: of the configs.
        name: of the primary config.
        words: the command line, without the program.

    Raises:
        ConfigError: for a key, a choice or a value that does not exist; says which do.
    """
    register()
    multirun = any(word in MULTIRUN for word in words)
    overrides = [word for word in words if not word.startswith("-")]
    with initialize_config_dir(folder, version_base=None):
        try:
            each = _expanded(name, overrides) if multirun else [overrides]
            return [compose(name, list(job)) for job in each]
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(_explained(error, name, overrides)) from error


def _expanded(name: str, overrides: list[str]) -> list[list[str]]:
    """As Hydra's basic sweeper multiplies them, the sweep of the config itself included."""
    parser = OverridesParser.create()
    fixed = [word for word in overrides if not parser.parse_override(word).is_sweep_override()]
    config = compose(name, fixed, return_hydra_config=True)
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *overrides])
    [batch] = BasicSweeper.split_arguments([one for one in parsed if _is_plain(one)], None)
    return [list(words) for words in batch]


def _is_plain(override: Override) -> bool:
    """Ranges that a search draws from cannot be listed; the search composes its jobs itself."""
    return not override.is_sweep_override() or override.is_discrete_sweep()


def _explained(error: Exception, name: str, overrides: Sequence[str]) -> str:
    """Hydra's words, and what to write instead."""
    text = str(error)
    if cause := error.__cause__:
        text = f"{text}\n{cause}" if str(cause) not in text else text
    if match := re.search(r"Could not override '([\w./@-]+)'", text):
        instead = f"Write {REPLACED[match[1]]} instead. " if match[1] in REPLACED else ""
        return f"{match[0]}. {instead}{_valid_keys(match[1], compose(name, _choices(overrides)))}"
    if (match := re.search(r"Could not find 'hydra/(?:launcher|sweeper)/(\w+)'", text)) and match[1] in EXTRAS:
        return f"{match[1]} is not installed. Run `pip install 'specdec-lab[{EXTRAS[match[1]]}]'`."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("Config search path", "provider=", "full_key", "_")))


def _choices(overrides: Sequence[str]) -> list[str]:
    """Those that choose one file or node of a group: a key is valid or not by them."""
    groups = GlobalHydra.instance().config_loader().list_groups("")
    return [word for word in overrides if word.partition("=")[0] in groups and "," not in word]


def _valid_keys(key: str, node: DictConfig) -> str:
    """What stands beside the first part of a key that does not exist in `node`."""
    above: list[str] = []
    parts = key.split(".")
    while parts and isinstance(node.get(parts[0]), DictConfig):
        node = node[parts[0]]
        above.append(parts.pop(0))
    if not parts:
        return f"New entries take a plus: +{key}={{…}}."
    valid = sorted(map(str, node))
    close = difflib.get_close_matches(parts[0], valid, n=1)
    meant = f"Did you mean {'.'.join([*above, close[0], *parts[1:]])}? " if close else ""
    option = f" Another option of the class takes a plus: +{key}=…" if "_target_" in node and not close else ""
    return f"{meant}Valid keys{' of ' + '.'.join(above) if above else ''}: {', '.join(valid)}.{option}"
