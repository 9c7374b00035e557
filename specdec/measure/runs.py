"""Run folders: what one job writes while it runs, and what every report reads.

    runs/<study>/<job>/
        config.yaml          its settings, resolved
        axes.json            what may differ between the study's jobs
        environment.json     machine, versions, git state, command
        rows.jsonl           one line a finished prompt, while the job runs
        rows.parquet         the same at the end
        steps.parquet        one row a verified step
        trace.safetensors    with trace.save=true
        summary.json         the figures; a job with this file is done
        error.txt            in place of those, if it failed

A line is on the disk before the next prompt begins. After a kill the job reads the lines and goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from specdec.errors import ConfigError
from specdec.stats import DecodingStats

CONFIG, AXES, ENVIRONMENT, SUMMARY, ERROR = "config.yaml", "axes.json", "environment.json", "summary.json", "error.txt"
LINES, ROWS, STEPS, TRACE = "rows.jsonl", "rows.parquet", "steps.parquet", "trace.safetensors"


@dataclass(frozen=True)
class StepRow:
    """One verified step of one prompt.

    Args:
        index: which prompt.
        step: number of the step, from 0.
        anchor: tokens that are committed before it, the prompt's included.
        drafted, tested, accepted: draft nodes; draft positions.
        texts: pieces of text that became certain, in order.
        proposed: for each piece, whether the drafter had proposed it.
        rejected: text of the draft token that the target refused where the step ended, if there was one.
    """

    index: int
    step: int
    anchor: int
    drafted: int
    tested: int
    accepted: int
    texts: list[str]
    proposed: list[bool]
    rejected: str | None


@dataclass(frozen=True)
class PromptRow:
    """One prompt, decoded with the drafter and, if there is a plain side, without.

    Args:
        index: place in the run's prompts.
        question_id, category, prompt: the prompt.
        text, token_ids, seed, finish_reason: its output with the drafter.
        stats: counts and times of that output.
        plain_token_ids, plain_stats: of the plain side, or None.
        comparable: whether both sides must give the same tokens (greedy, or a rule that follows plain decoding).
        ttft_seconds: from the request to its first token.
        gaps_seconds: from each arrival of tokens to the next.
        kv_occupancy, kv_waste: mean share of the cache's slots that were allocated, and of those, that held no token.
        steps: what happened on the way.
    """

    index: int
    question_id: str
    category: str
    prompt: str
    text: str
    token_ids: list[int]
    seed: int
    finish_reason: str
    stats: DecodingStats
    plain_token_ids: list[int] | None
    plain_stats: DecodingStats | None
    comparable: bool
    ttft_seconds: float
    gaps_seconds: list[float]
    kv_occupancy: float
    kv_waste: float
    steps: list[StepRow] = field(default_factory=list)

    @property
    def identical(self) -> bool | None:
        """Whether both sides gave the same tokens; None if they need not, or there is one only."""
        return self.token_ids == self.plain_token_ids if self.comparable and self.plain_token_ids is not None else None

    @classmethod
    def parse(cls, line: str) -> PromptRow:
        """From a line of `LINES`."""
        values = json.loads(line)
        values["stats"] = DecodingStats(**values["stats"])
        values["plain_stats"] = None if values["plain_stats"] is None else DecodingStats(**values["plain_stats"])
        values["steps"] = [StepRow(**step) for step in values["steps"]]
        return cls(**values)

    def table_row(self) -> dict[str, Any]:
        """As a row of `ROWS`: without steps, with the figures that a reader looks for."""
        row = {name: value for name, value in asdict(self).items() if name != "steps"}
        plain = self.plain_stats.tokens_per_second if self.plain_stats is not None else None
        speed = self.stats.tokens_per_second
        return row | {
            "prompt_tokens": self.stats.prompt_tokens,
            "output_tokens": self.stats.output_tokens,
            "identical": self.identical,
            "tau": self.stats.mean_accepted_length,
            "alpha": self.stats.acceptance_rate,
            "tokens_per_second": speed,
            "plain_tokens_per_second": plain,
            "speedup": speed / plain if plain else None,
            "ttft_ms": 1e3 * self.ttft_seconds,
        }


class RunFolder:
    """Where one job writes.

    Args:
        path: the folder; it is made when the job begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return (self.path / SUMMARY).is_file()

    def begin(
        self, config: Mapping[str, Any], axes: Mapping[str, Any], environment: Mapping[str, Any], anew: bool = False
    ) -> list[PromptRow]:
        """Starts, or goes on.

        Args:
            config: the settings.
            axes: see `Run`.
            environment: see `specdec.measure.environment`.
            anew: forget earlier tries.

        Returns:
            Rows of the prompts that are finished.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for name in (ERROR, SUMMARY, LINES) if anew else (ERROR,):
            (self.path / name).unlink(missing_ok=True)
        (self.path / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.create(dict(config))), encoding="utf-8")
        self._write_json(AXES, axes)
        self._write_json(ENVIRONMENT, environment)
        return self._finished()

    def _finished(self) -> list[PromptRow]:
        """Whole lines. A line that a kill cut short is removed, so that the next one does not join it."""
        path = self.path / LINES
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n") if path.is_file() else ("", "", "")
        lines = whole.split("\n") if whole else []
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return [PromptRow.parse(line) for line in lines]

    def append(self, rows: Iterable[PromptRow]) -> None:
        """Writes finished prompts to the disk."""
        with (self.path / LINES).open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(asdict(row)) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())

    def finish(self, rows: list[PromptRow], summary: Mapping[str, Any]) -> None:
        """Writes the tables, then the figures; with those the job is done."""
        pq.write_table(pa.Table.from_pylist([row.table_row() for row in rows]), self.path / ROWS)
        steps = [asdict(step) for row in rows for step in row.steps]
        pq.write_table(pa.Table.from_pylist(steps), self.path / STEPS)
        self._write_json(SUMMARY, summary)
        (self.path / LINES).unlink()

    def fail(self, message: str) -> None:
        """Notes why the job ended early; it may be run again."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / ERROR).write_text(message, encoding="utf-8")

    def _write_json(self, name: str, values: Mapping[str, Any]) -> None:
        """All of it or nothing."""
        part = self.path / f"{name}.part"
        part.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(self.path / name)


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Args:
        folder: where it is.
        status, error: of the job; the error is its traceback.
        config, environment: as the job began.
        axes: what may differ between the study's jobs, by name: drafter, rule, policy, temperature, …
        summary: the figures (see `specdec.measure.summary`).
        rows, steps: one row a prompt, one row a verified step. These and the summary are empty unless the job is done.
    """

    folder: Path
    status: Literal["done", "failed", "unfinished"]
    error: str | None
    config: dict[str, Any]
    environment: dict[str, Any]
    axes: dict[str, Any]
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    steps: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Unique in its study."""
        return self.folder.name


def load_runs(study: str | Path) -> list[Run]:
    """Every job of a study, by name.

    Raises:
        ConfigError: if there is none.
    """
    folders = sorted(path.parent for path in Path(study).glob(f"*/{CONFIG}"))
    if not folders:
        raise ConfigError(f"No run folders in {study}. Give the folder of a study: runs/<study>.")
    return [load_run(folder) for folder in folders]


def load_run(folder: Path) -> Run:
    """Reads one run folder, whatever its state."""
    config: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    done = (folder / SUMMARY).is_file()
    error = (folder / ERROR).read_text(encoding="utf-8") if (folder / ERROR).is_file() else None
    return Run(
        folder=folder,
        status="done" if done else "unfinished" if error is None else "failed",
        error=error,
        config=config,
        environment=_read_json(folder / ENVIRONMENT),
        axes=_read_json(folder / AXES),
        summary=_read_json(folder / SUMMARY) if done else {},
        rows=pq.read_table(folder / ROWS).to_pylist() if done else [],
        steps=pq.read_table(folder / STEPS).to_pylist() if done else [],
    )


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
