"""The command line: `specdec generate [key=value ...]`, the same as `python -m experiments.generate`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import hydra
import transformers
from omegaconf import DictConfig
from rich.console import Console

from specdec import doctor
from specdec.errors import SpecdecError
from specdec.study import preflight, sweep
from specdec.study.config import register
from specdec.study.plan import Plan, plan
from specdec.tracking.compare import compare
from specdec.tracking.console import ConsoleReport


def config_dir() -> str:
    """Folder of the Hydra configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return str(next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()))


def application(
    name: str, job: Callable[[DictConfig], Any], check: Callable[[DictConfig], object], counted: bool = False
) -> Callable[[], None]:
    """A Hydra program whose jobs are all checked before the first one begins.

    Args:
        name: of the primary config.
        job: what one configuration does.
        check: raises a SpecdecError for a configuration that cannot work.
        counted: whether the config has a field `jobs` for their number.
    """
    register()

    @wraps(job)
    def guarded(config: DictConfig) -> Any:
        with one_line():
            return job(config)

    def main() -> None:
        words = sys.argv[1:]
        if not any(word.startswith("-") and word not in preflight.MULTIRUN for word in words):  # --help, --cfg, …
            with one_line():
                jobs = preflight.jobs(config_dir(), name, words)
                for config in jobs:
                    check(config)
            if counted:
                sys.argv.append(f"jobs={len(jobs)}")
        hydra.main(version_base=None, config_path=config_dir(), config_name=name)(guarded)()

    return main


class one_line:
    """What the user did wrong is one line on stderr and exit code 2; a defect keeps its traceback."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SpecdecError):
            print(f"specdec: {error}", file=sys.stderr)
            sys.exit(2)


def _generate(config: DictConfig) -> None:
    """Decodes prompts plainly and speculatively and prints what it cost."""
    transformers.logging.disable_progress_bar()
    made = plan(config)
    made.use_threads()
    texts = _texts(config, made)
    generator = made.generator()
    report = ConsoleReport(Console(record=config.svg is not None))
    report.legend(made.drafter.name, made.axes["rule"])
    prompts = [(label, made.prompt(text, generator)) for label, text in texts]
    report.table(compare(generator, prompts, made.params, report.prompt, report.event))
    if config.svg is not None:
        report.console.save_svg(config.svg, title="specdec generate")


def _texts(config: DictConfig, made: Plan) -> list[tuple[str, str]]:
    """With their labels."""
    if config.prompt is not None:
        return [("prompt", config.prompt)]
    return [(record.category, record.prompt) for record in made.source.load()]


generate = application("generate", _generate, plan)
benchmark = application("benchmark", sweep.job, sweep.check, counted=True)
COMMANDS: dict[str, Callable[[], None]] = {"generate": generate, "benchmark": benchmark, "doctor": doctor.main}


def main() -> None:
    """Console script: the first argument names the command, the rest are Hydra overrides."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command not in COMMANDS:
        print(f"usage: specdec {{{','.join(COMMANDS)}}} [key=value ...]   (--help after a command lists its settings)")
        sys.exit(0 if command in ("-h", "--help") else 2)
    sys.argv = [f"specdec {command}", *sys.argv[2:]]
    COMMANDS[command]()
