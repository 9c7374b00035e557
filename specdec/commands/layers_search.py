"""Searches for the sublayers that the layer_skip drafter leaves out of a target.

specdec layers search [MODEL] [trials=300] [yaml=FILE]

Each candidate is judged by the share of the target's own answers that it predicts in one pass, and by the measured time
of a pass; a tree-structured Parzen estimator (optuna) proposes them. What it finds is printed as settings of
`drafter=layer_skip`, and written to a file if asked for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from specdec import checks
from specdec.analysis.sublayers import Answers, Candidate, Costs, Sublayers, Text, require_optuna, search
from specdec.commands.application import application
from specdec.drafters.layer_skip import LayerSkipDrafter
from specdec.errors import ConfigError
from specdec.models.base import CausalLM
from specdec.places import check_writable, write
from specdec.study.plan import Plan, check_source, plan

SHOWN = 5
"""Candidates of the table."""


def _search(config: DictConfig) -> None:
    """Searches, prints, writes what was asked for."""
    job = plan(config)
    job.use_threads()
    model, texts = _answers(job)
    answers = Answers(model, texts)
    costs = Costs.of(model, answers)

    def judge(skips: Sublayers) -> Candidate:
        agreement = answers.agreement(model.without(*map(frozenset, skips)))
        return Candidate.of(skips, agreement, costs, config.longest)

    found = search(model.kv_layout.num_layers, judge, config.trials, config.seed)
    Console(width=None if sys.stdout.isatty() else 140).print(_table(found[:SHOWN]))
    print(f"{len(found)} candidates, judged on {sum(len(text.answer) for text in texts)} tokens. {_verdict(found[0])}")
    options = _options(found[0])
    print("drafter=layer_skip", *(f"drafter.{name}={_word(value)}" for name, value in options.items()))
    if config.yaml is not None:
        target = f"{LayerSkipDrafter.__module__}.{LayerSkipDrafter.__name__}"
        record = {"_target_": target, **options}
        write(Path(config.yaml), yaml.safe_dump(record, default_flow_style=None, sort_keys=False))


def _answers(job: Plan) -> tuple[CausalLM, list[Text]]:
    """The target, and what it says to the prompts."""
    with job.generator() as generator:
        prompts = [generator.encode(job.prompt([record.prompt], generator)) for record in job.source.load()]
        answers = [generation.token_ids for generation in generator.generate(prompts, job.params)]
        return generator.loaded.model, [Text(*pair) for pair in zip(prompts, answers, strict=True)]


def _table(found: Sequence[Candidate]) -> Table:
    """The best candidates."""
    table = Table(
        "no attention in", "no feed-forward in", "agreement", "cost of a draft token", "γ", "expected speedup"
    )
    for each in found:
        layers = (" ".join(map(str, kind)) or "–" for kind in each.skips)
        table.add_row(
            *layers, f"{each.agreement:.2f}", f"{each.cost:.2f}", str(each.num_draft_tokens), f"{each.speedup:.2f}"
        )
    return table


def _verdict(best: Candidate) -> str:
    if best.speedup <= 1:
        return f"None of them pays: the best promises {best.speedup:.2f} × plain decoding."
    return f"The best promises {best.speedup:.2f} × plain decoding; measure it (specdec generate)."


def _options(best: Candidate) -> dict[str, int | list[int]]:
    attention, mlp = map(list, best.skips)
    return {"num_draft_tokens": best.num_draft_tokens, "skip_attention": attention, "skip_mlp": mlp}


def _word(value: int | list[int]) -> str:
    """As the command line takes it, without blanks."""
    return str(value).replace(" ", "")


def _check(config: DictConfig) -> None:
    job = plan(config)
    if not job.params.greedy:
        raise ConfigError("sampling.temperature cannot work here: answers are the target's greedy ones. Leave it at 0.")
    checks.take("trials", config.trials, checks.whole(1, 100_000))
    checks.take("seed", config.seed, checks.whole(0))
    checks.take("longest", config.longest, checks.whole(1, 64))
    check_writable("yaml", config.yaml)
    check_source(job.source)
    require_optuna()


main = application("layers_search", _search, _check, word="target.path")
