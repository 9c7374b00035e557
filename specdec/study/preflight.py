"""Every job of a command is composed and checked before the first one loads anything."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from specdec.errors import ConfigError
from specdec.study.choices import register_classes
from specdec.study.config import register
from specdec.study.options import check_options, own_options
from specdec.typed import Typed, typed_parameters

MULTIRUN = ("-m", "--multirun")
SEARCH_PATH = "hydra.searchpath="
EXTRAS = {"ray": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm", "optuna": "optuna"}
"""Hydra's launcher or sweeper → the extra that brings its plugin."""
NO_LIST = re.compile(r"merging override [+]*([\w./@-]+)=(.*?)\s*\n\s*Invalid value assigned: \w+ is not a ListConfig")
"""Hydra's words for one value where a list is asked for."""
REPLACED = {"engine.adaptive": "policy=product (true) or policy=always (false)"}
"""Keys of older versions → what to write instead."""


def typed_settings(folder: str, name: str, words: Sequence[str], further: str | None = None) -> dict[str, Typed]:
    """Settings whose values are taken as typed: those of the config's schemas and of the classes that it names.

    Args:
        folder: of the configs.
        name: of the primary config.
        words: settings `key=value` as typed; of them only choices of groups and `_target_` are read.
        further: another folder of configs (`--config-dir`).
    """
    register()
    register_classes(words)
    with _composing(folder, further):
        swept = [word.partition("=") for word in _choices(words, sweeps=True) if "," in word]
        each = [f"{group}={choice}" for group, _, choices in swept for choice in choices.split(",")]
        search = [word for word in words if word.startswith(SEARCH_PATH)]
        found: dict[str, Typed] = {}
        for one in [_choices(words), *([*search, choice] for choice in each)]:
            with suppress(HydraException, OmegaConfBaseException):  # told when the jobs are composed
                found |= _typed_in(compose(name, one))
        targets = [word.split("=", 1) for word in words if word.partition("=")[0].endswith("._target_")]
        for key, target in targets:
            found |= _typed_of(target, key.lstrip("+").removesuffix("_target_"))
    return found


def _typed_in(node: DictConfig, above: str = "") -> dict[str, Typed]:
    kind = OmegaConf.get_type(node)
    found = _named(typed_parameters(kind), above) if is_dataclass(kind) else {}
    found |= _typed_of(OmegaConf.select(node, "_target_", default=None), above)
    for key in map(str, node):
        child = None if OmegaConf.is_missing(node, key) else node[key]
        if isinstance(child, DictConfig):
            found |= _typed_in(child, f"{above}{key}.")
    return found


def _typed_of(target: Any, above: str) -> dict[str, Typed]:
    """Of the class or function that a dotted name stands for; none if there is no such thing."""
    with suppress(Exception):  # whatever importing it brings is told when it is made
        module, _, name = target.rpartition(".")
        return _named(typed_parameters(getattr(import_module(module), name)), above)
    return {}


def _named(marks: dict[str, Typed], above: str) -> dict[str, Typed]:
    return {f"{above}{name}": mark for name, mark in marks.items()}


def jobs(
    folder: str,
    name: str,
    words: Sequence[str],
    multirun: bool | None = None,
    check: Callable[[DictConfig], object] = lambda config: None,
    further: str | None = None,
) -> list[DictConfig]:
    """The configuration of every job that a command line stands for.

    Args:
        folder: of the configs.
        name: of the primary config.
        words: the command line in Hydra's grammar, without the program.
        multirun: whether it is a sweep; None looks for its option among the words.
        check: raises a ConfigError for a job that cannot work.
        further: another folder of configs (`--config-dir`).

    Raises:
        ConfigError: for a key, a choice or a value that does not exist; says which do, and in which job of a sweep.
    """
    register()
    multirun = any(word in MULTIRUN for word in words) if multirun is None else multirun
    overrides = [word for word in words if not word.startswith("-")]
    with _composing(folder, further):
        with _explained_errors(name, overrides):
            each = _expanded(name, overrides) if multirun else [overrides]
        configs = []
        for number, job in enumerate(each):
            register_classes(job)
            with _job_named(each, number), _explained_errors(name, job):
                configs.append(compose(name, job))
    check_options(configs)
    for number, config in enumerate(configs):
        with _job_named(each, number):
            check(own_options(config))
    return configs


@contextmanager
def _composing(folder: str, further: str | None) -> Iterator[None]:
    """Inside, Hydra composes configs of these folders."""
    if further is not None and not Path(further).is_dir():
        raise ConfigError(
            f"--config-dir={further!r} is not a folder. Give one that holds configs, such as drafter/mine.yaml."
        )
    with initialize_config_dir(folder, version_base=None):
        if further is not None:
            loader = GlobalHydra.instance().config_loader()
            path, anchor = f"file://{Path(further).absolute()}", SearchPathQuery(provider="schema")
            loader.get_search_path().prepend(provider="command-line", path=path, anchor=anchor)
            loader.repository.initialize_sources(loader.get_search_path())
        yield


@contextmanager
def _explained_errors(name: str, words: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_explained(error, name, words)) from error


@contextmanager
def _job_named(each: Sequence[Sequence[str]], number: int) -> Iterator[None]:
    """A refusal of one job of a sweep says which one it is, by the settings that not all jobs have."""
    try:
        yield
    except ConfigError as error:
        if len(each) == 1:
            raise
        own = [word for word in each[number] if not all(word in words for words in each)]
        raise ConfigError(f"Job {number + 1} of {len(each)} ({' '.join(own)}): {error}") from error


def _expanded(name: str, overrides: list[str]) -> list[list[str]]:
    """As Hydra's basic sweeper multiplies them, the sweep of the config itself included."""
    parser = OverridesParser.create()
    fixed = [word for word in overrides if not parser.parse_override(word).is_sweep_override()]
    fixed = [*_choices(fixed), *(word for word in fixed if word.startswith("hydra."))]  # other keys depend on the job
    register_classes(fixed)
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
    if match := NO_LIST.search(text):
        return f"{match[1]}={match[2]} cannot work: a list is asked for. Write {match[1]}=[{match[2]}]."
    if (match := re.search(r"Could not find 'hydra/(?:launcher|sweeper)/(\w+)'", text)) and match[1] in EXTRAS:
        return f"{match[1]} is not installed. Run `pip install 'specdec-lab[{EXTRAS[match[1]]}]'`."
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("Config search path", "provider=", "full_key", "_")))


def _choices(overrides: Sequence[str], sweeps: bool = False) -> list[str]:
    """Those that choose a file or node of a group: a key is valid or not by them. A sweep names several."""
    groups = GlobalHydra.instance().config_loader().list_groups("")
    chosen = [word for word in overrides if word.partition("=")[0] in groups and (sweeps or "," not in word)]
    return [*(word for word in overrides if word.startswith(SEARCH_PATH)), *chosen]


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
    return f"{meant}Valid keys{' of ' + '.'.join(above) if above else ''}: {', '.join(valid)}."
