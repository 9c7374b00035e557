"""Plain and speculative decoding of the same prompts, interleaved, streamed and compared.

specdec generate "Hello, world" drafter=ngram     # or prompt=TEXT, prompt=@FILE, prompt=- for the standard input
specdec generate drafter=early_exit target.path=<folder, GGUF file or hub id>
"""

from __future__ import annotations

from pathlib import Path

import transformers
from omegaconf import DictConfig
from rich.console import Console

from specdec.commands.application import application
from specdec.measure.compare import compare
from specdec.places import check_writable, write
from specdec.report.console import ConsoleReport
from specdec.study.plan import Plan, check_source, plan
from specdec.verify.base import Rule


def _generate(config: DictConfig) -> None:
    """Decodes prompts plainly and speculatively and prints what it cost."""
    transformers.logging.disable_progress_bar()
    job = plan(config)
    job.use_threads()
    texts = _texts(config, job)
    generator = job.generator()
    report = ConsoleReport(Console(record=config.svg is not None))
    report.legend(job.axes["drafter"], job.axes["rule"])
    prompts = [(label, job.prompt([text], generator)) for label, text in texts]
    comparable = job.judge.draft_invariant
    report.table(compare(generator, prompts, job.params, report.prompt, report.event, comparable))
    for note in filter(None, (_promise(job.judge), job.policy.account())):
        report.note(note)
    if config.svg is not None:
        write(Path(config.svg), report.console.export_svg(title="specdec generate"))


def _promise(rule: Rule) -> str:
    """Why texts are not compared, if they are not."""
    if rule.draft_invariant:
        return ""
    if not rule.lossless:
        return f"rule={rule.name} is lossy: its texts may differ from the target's, so they are not compared."
    return (
        f"rule={rule.name} promises the target's distribution, not the same text, so texts are not compared. "
        "rule=gumbel gives the same text."
    )


def _texts(config: DictConfig, job: Plan) -> list[tuple[str, str]]:
    """With their labels."""
    if config.prompt is not None:
        return [("prompt", config.prompt)]
    return [(record.category, record.prompt) for record in job.source.load()]


def _check(config: DictConfig) -> None:
    job = plan(config)
    check_writable("svg", config.svg)
    if config.prompt is None:
        check_source(job.source)


main = application("generate", _generate, _check, word="prompt")
