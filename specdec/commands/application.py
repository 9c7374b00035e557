"""What the commands share: where configs are, how words become jobs, and how a user's mistake is reported."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any
from uuid import uuid4

import hydra
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from specdec.commands.settings import register_help
from specdec.commands.terminal import leave_broken_pipe
from specdec.commands.words import literal, quoted, sort_words
from specdec.errors import ConfigError, SpecdecError
from specdec.measure.environment import command
from specdec.study import preflight
from specdec.study.choices import simplified
from specdec.study.config import register
from specdec.study.options import own_options


def config_dir() -> str:
    """Folder of the Hydra configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    return str(next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()))


def application(
    name: str,
    job: Callable[[DictConfig], Any],
    check: Callable[[DictConfig], object] = lambda config: None,
    told: Collection[str] = (),
    word: str | None = None,
    second: str | None = None,
    begin: Callable[[list[DictConfig]], object] = lambda configs: None,
) -> Callable[[], None]:
    """A Hydra program whose jobs are all checked before the first one begins.

    Args:
        name: of the primary config.
        job: what one configuration does.
        check: raises a SpecdecError for a configuration that cannot work.
        told: which of the settings `jobs` (their number), `command` (as it was typed) and `ledger` (a name that no
            other command has) the config takes.
        word: the key that a word without a key is the value of.
        second: the key that the second of two such words is the value of.
        begin: gets all configurations once they are checked, before the first job.
    """

    @wraps(job)
    def guarded(config: DictConfig) -> Any:
        with exit_on_user_error():
            return job(own_options(config))

    def main() -> None:
        register()
        register_help(config_dir())
        if not any(argument.startswith(("-sc", "--shell")) for argument in sys.argv[1:]):
            with exit_on_user_error():
                sys.argv[1:] = _prepared(name, check, told, word, second, begin)
        with exit_on_user_error():
            hydra.main(version_base=None, config_path=config_dir(), config_name=name)(guarded)()

    return main


def _prepared(
    name: str,
    check: Callable[[DictConfig], object],
    told: Collection[str],
    word: str | None,
    second: str | None,
    begin: Callable[[list[DictConfig]], object],
) -> list[str]:
    """This process's words as Hydra reads them, once every job that they stand for is found to be possible."""
    typed_line = command(pasteable=True)
    words = sort_words(sys.argv[1:])
    words = replace(words, settings=simplified(words.settings))
    flags = get_args_parser().parse_args(words.options)
    folder, name = os.path.abspath(flags.config_path or config_dir()), flags.config_name or name
    typed = preflight.typed_settings(folder, name, words.settings, flags.config_dir)
    settings = quoted(words, typed, word, second)
    if not (flags.help or flags.hydra_help or flags.info):
        checks = check if flags.cfg is None else lambda config: None  # a config is shown whether it can work or not
        try:
            jobs = preflight.jobs(folder, name, settings, words.multirun, checks, flags.config_dir)
        except ConfigError as error:
            raise ConfigError(f"{error}{_equals_hint(str(error), word)}") from error
        if flags.cfg is None:
            begin([own_options(job) for job in jobs])
        values = {"jobs": str(len(jobs)), "command": literal(typed_line), "ledger": literal(uuid4().hex[:12])}
        settings += [f"{key}={values[key]}" for key in values if key in told and flags.cfg is None]
    return [*words.options, *(["--config-path", folder] if flags.config_path else []), *settings]


def _equals_hint(refusal: str, word: str | None) -> str:
    """A text with `=` in it looks like a setting."""
    unknown = word is not None and refusal.startswith("Could not override")
    return f" A text that holds `=` follows its key: {word}=…" if unknown else ""


class exit_on_user_error:
    """What the user did wrong is one line on stderr and exit code 2; a defect keeps its traceback."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BrokenPipeError):
            leave_broken_pipe()
        if isinstance(error, SpecdecError):
            print(f"specdec: {error}", file=sys.stderr)
            sys.exit(2)
