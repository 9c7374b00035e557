"""What the commands share: where configs are, how jobs are checked, and how a user's mistake is reported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from specdec.errors import SpecdecError
from specdec.study import preflight
from specdec.study.config import register


def config_dir() -> str:
    """Folder of the Hydra configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    return str(next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()))


def application(
    name: str,
    job: Callable[[DictConfig], Any],
    check: Callable[[DictConfig], object] = lambda config: None,
    counted: bool = False,
    word: str | None = None,
) -> Callable[[], None]:
    """A Hydra program whose jobs are all checked before the first one begins.

    Args:
        name: of the primary config.
        job: what one configuration does.
        check: raises a SpecdecError for a configuration that cannot work.
        counted: whether the config has a field `jobs` for their number.
        word: the key that a word without a key is the value of.
    """

    @wraps(job)
    def guarded(config: DictConfig) -> Any:
        with exit_on_user_error():
            return job(config)

    def main() -> None:
        register()
        if word is not None:
            sys.argv[1:] = [_with_key(word, argument) for argument in sys.argv[1:]]
        words = sys.argv[1:]
        if not any(argument.startswith("-") and argument not in preflight.MULTIRUN for argument in words):  # no --help
            with exit_on_user_error():
                jobs = preflight.jobs(config_dir(), name, words)
                for config in jobs:
                    check(config)
            if counted:
                sys.argv.append(f"jobs={len(jobs)}")
        hydra.main(version_base=None, config_path=config_dir(), config_name=name)(guarded)()

    return main


def _with_key(key: str, argument: str) -> str:
    """`runs/x` → `key='runs/x'`; options and words with a key stay as they are."""
    if argument.startswith("-") or "=" in argument:
        return argument
    quoted = argument.replace("'", "\\'")
    return f"{key}='{quoted}'"


class exit_on_user_error:
    """What the user did wrong is one line on stderr and exit code 2; a defect keeps its traceback."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SpecdecError):
            print(f"specdec: {error}", file=sys.stderr)
            sys.exit(2)
