"""Replays a recorded trace with any rules and draft lengths; no model runs.

specdec study sampling=sample rule=block trace.prompts=8 trace.save=true   # records one
specdec replay trace=runs/benchmark/<job> rules=[token,block] gammas=[1,2,4] seeds=50

τ is the mean over replays, with its standard error: the same seeds for every rule. docs/traces.md says what such a
figure is worth.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from specdec import checks
from specdec.analysis.traces import Trace, load_trace
from specdec.commands.application import application
from specdec.errors import ConfigError
from specdec.measure.runs import TRACE
from specdec.places import check_writable, is_file, missing, write
from specdec.registry import RULES
from specdec.stats import DecodingStats
from specdec.study.plan import values_of


@dataclass(frozen=True)
class Replay:
    """One rule and draft length.

    Args:
        rule: its name.
        gamma: longest draft, or None for the recorded one.
        tau, error: mean over replays and its standard error (0 for a single one).
        alpha: of all replays together.
        replays: how many.
    """

    rule: str
    gamma: int | None
    tau: float
    error: float
    alpha: float
    replays: int


def replay(trace: Trace, rule: str, gamma: int | None, seeds: int) -> Replay:
    """Judges the trace `seeds` times, or once with its own random numbers."""
    each = list(range(seeds)) if seeds else [None]
    stats = [trace.replay(rule, seed=seed, num_draft_tokens=gamma) for seed in each]
    lengths = [one.mean_accepted_length for one in stats]
    error = stdev(lengths) / len(lengths) ** 0.5 if len(lengths) > 1 else 0.0
    return Replay(rule, gamma, fmean(lengths), error, DecodingStats.total(stats).acceptance_rate, len(lengths))


def table(replays: list[Replay]) -> Table:
    """For the terminal."""
    lines = Table("rule", "γ", "τ", "± s.e.", "α", "replays")
    for one in replays:
        gamma = "recorded" if one.gamma is None else str(one.gamma)
        lines.add_row(one.rule, gamma, f"{one.tau:.3f}", f"{one.error:.3f}", f"{one.alpha:.3f}", str(one.replays))
    return lines


def _replay(config: DictConfig) -> None:
    """Replays, prints, writes what was asked for."""
    trace = load_trace(_path(config))
    replays = [replay(trace, rule, gamma, config.seeds) for rule in config.rules for gamma in config.gammas]
    Console(width=None if sys.stdout.isatty() else 120).print(table(replays))
    if config.json is not None:
        write(Path(config.json), json.dumps([asdict(one) for one in replays], indent=1) + "\n")


def _check(config: DictConfig) -> None:
    values_of(config)
    for name in config.rules:
        RULES.get(name)
    for gamma in config.gammas:
        checks.take("gammas", gamma, checks.whole(1).or_none(" for the recorded length"))
    checks.take("seeds", config.seeds, checks.whole(0))
    check_writable("json", config.json)
    _path(config)


def _path(config: DictConfig) -> Path:
    """Of the trace."""
    path = Path(config.trace)
    path = path / TRACE if path.is_dir() else path
    if not is_file(path):
        raise ConfigError(
            f"No trace at {path}. {missing(path)} A study with trace.save=true leaves one in each run folder."
        )
    return path


main = application("replay", _replay, _check, word="trace")
