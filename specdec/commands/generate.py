"""Plain and speculative decoding of the same prompts, interleaved, streamed and compared.

specdec generate drafter=ngram prompt="..."
specdec generate drafter=early_exit target.path=<folder, GGUF file or hub id>
"""

from __future__ import annotations

import transformers
from omegaconf import DictConfig
from rich.console import Console

from specdec.commands.application import application
from specdec.measure.compare import compare
from specdec.report.console import ConsoleReport
from specdec.study.plan import Plan, plan


def _generate(config: DictConfig) -> None:
    """Decodes prompts plainly and speculatively and prints what it cost."""
    transformers.logging.disable_progress_bar()
    job = plan(config)
    job.use_threads()
    texts = _texts(config, job)
    generator = job.generator()
    report = ConsoleReport(Console(record=config.svg is not None))
    report.legend(job.drafter.name, job.axes["rule"])
    prompts = [(label, job.prompt(text, generator)) for label, text in texts]
    report.table(compare(generator, prompts, job.params, report.prompt, report.event))
    if config.svg is not None:
        report.console.save_svg(config.svg, title="specdec generate")


def _texts(config: DictConfig, job: Plan) -> list[tuple[str, str]]:
    """With their labels."""
    if config.prompt is not None:
        return [("prompt", config.prompt)]
    return [(record.category, record.prompt) for record in job.source.load()]


main = application("generate", _generate, plan)
