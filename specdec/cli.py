"""The command line: `specdec generate [key=value ...]`, the same as `python -m experiments.generate`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import torch
import transformers
from hydra.errors import InstantiationException
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from rich.console import Console

from specdec import doctor
from specdec.engine import EngineConfig
from specdec.errors import ConfigError, SpecdecError
from specdec.generator import SpeculativeGenerator
from specdec.models.loading import load
from specdec.prompts import load_prompts
from specdec.sampling import SamplingParams
from specdec.tracking.compare import compare
from specdec.tracking.console import ConsoleReport


def config_dir() -> str:
    """Folder of the Hydra configs: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    return str(next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()))


@hydra.main(version_base=None, config_path=config_dir(), config_name="generate")  # type: ignore[untyped-decorator]
def generate(config: DictConfig) -> None:
    """Decodes prompts plainly and speculatively and prints what it cost; settings are in configs/generate.yaml."""
    try:
        _generate(config)
    except (SpecdecError, MissingMandatoryValue, InstantiationException) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        print(f"specdec: {cause}", file=sys.stderr)
        sys.exit(2)


def _generate(config: DictConfig) -> None:
    transformers.logging.disable_progress_bar()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    params = _dataclass(SamplingParams, config.sampling)
    engine = _dataclass(EngineConfig, config.engine)
    drafter = hydra.utils.instantiate(config.drafter)
    prompts = _prompts(config)
    generator = SpeculativeGenerator(load(**_plain(config.target)), drafter, config.rule, config=engine)
    report = ConsoleReport(Console(record=config.svg is not None))
    report.legend(drafter.name, config.rule)
    if config.chat and generator.tokenizer.chat_template:
        prompts = [(label, [{"role": "user", "content": text}]) for label, text in prompts]
    report.table(compare(generator, prompts, params, report.prompt, report.event))
    if config.svg is not None:
        report.console.save_svg(config.svg, title="specdec generate")


def _prompts(config: DictConfig) -> list[tuple[str, Any]]:
    if config.prompt is not None:
        return [("prompt", config.prompt)]
    return [(record.category, record.prompt) for record in load_prompts(config.data.path, config.data.limit)]


def _plain(config: DictConfig) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[assignment]
    return values


def _dataclass(cls: Callable[..., Any], config: DictConfig) -> Any:
    """Configs end here: below this line there are only dataclasses."""
    try:
        return cls(**_plain(config))
    except TypeError as error:
        raise ConfigError(f"{error}. Valid keys: {', '.join(cls.__dataclass_fields__)}.") from error  # type: ignore[attr-defined]


COMMANDS: dict[str, Callable[[], None]] = {"generate": generate, "doctor": doctor.main}


def main() -> None:
    """Console script: the first argument names the command, the rest are Hydra overrides."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command not in COMMANDS:
        print(f"usage: specdec {{{','.join(COMMANDS)}}} [key=value ...]   (--help after a command lists its settings)")
        sys.exit(0 if command in ("-h", "--help") else 2)
    sys.argv = [f"specdec {command}", *sys.argv[2:]]
    COMMANDS[command]()
