"""Options of drafters, rules and policies: in a sweep each one reaches the classes that take it, and no others."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from specdec.errors import ConfigError
from specdec.study.choices import REGISTRIES


def check_options(configs: Sequence[DictConfig]) -> None:
    """Raises ConfigError for an option that no job's class takes; says which ones it does take.

    Args:
        configs: all jobs of a command.
    """
    for group in REGISTRIES:
        parts = [config[group] for config in configs if isinstance(config.get(group), DictConfig)]
        taken = [_taken(part) for part in parts]
        if None not in taken:
            anywhere = {name for names in taken if names is not None for name in names}
            for name in dict.fromkeys(name for part in parts for name in _given(part)):
                if name not in anywhere:
                    raise ConfigError(_unknown(group, name, sorted(anywhere)))


def own_options(config: DictConfig) -> DictConfig:
    """The same job, without the options that its drafter, rule and policy do not take: another job's class does.

    Args:
        config: of a command whose jobs `check_options` found in order; it is changed.
    """
    for group in REGISTRIES:
        part = config.get(group)
        taken = _taken(part) if isinstance(part, DictConfig) else None
        if taken is not None:
            for name in _given(part):
                if name not in taken:
                    del part[name]
    return config


def _given(part: DictConfig) -> list[str]:
    """Names without those that Hydra itself reads."""
    return [name for name in map(str, part) if not name.startswith("_")]


def _taken(part: DictConfig) -> set[str] | None:
    """Options of the class that a part names; None if it takes any, or if there is no such class."""
    target: Any = OmegaConf.select(part, "_target_", default=None)
    try:
        parameters = inspect.signature(get_object(target)).parameters.values()
    except Exception:  # whatever importing it brings is told when the part is made
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def _unknown(group: str, name: str, valid: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1)
    meant = f"Did you mean {group}.{close[0]}? " if close else ""
    return (
        f"No {group} of this command takes {group}.{name}. {meant}Valid keys of {group}: {', '.join(valid) or 'none'}."
    )
