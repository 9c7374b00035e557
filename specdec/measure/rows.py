"""What is kept of every prompt of a job, and of every step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from specdec.stats import DecodingStats


@dataclass(frozen=True)
class StepRow:
    """One verified step of one prompt.

    Args:
        index: which prompt.
        turn: which turn of a conversation, from 0.
        step: number of the step, from 0; it counts on from turn to turn.
        anchor: tokens that are committed before it, the prompt's included.
        drafted, tested, accepted: draft nodes; draft positions.
        texts: pieces of text that became certain, in order.
        proposed: for each piece, whether the drafter had proposed it.
        rejected: text of the draft token that the target refused where the step ended, if there was one.
        drafter: whose draft it was; `specdec.stats.NOBODY` if there was none.
    """

    index: int
    turn: int
    step: int
    anchor: int
    drafted: int
    tested: int
    accepted: int
    texts: list[str]
    proposed: list[bool]
    rejected: str | None
    drafter: str


@dataclass(frozen=True)
class TurnRow:
    """One turn of a prompt: what was asked, and what both sides answered. Each side reads its own earlier answers.

    Args:
        prompt: what was asked.
        text, token_ids, finish_reason: the answer with the drafter.
        stats: counts and times of that answer.
        plain_text, plain_token_ids, plain_stats: of the plain side, or None.
    """

    prompt: str
    text: str
    token_ids: list[int]
    finish_reason: str
    stats: DecodingStats
    plain_text: str | None
    plain_token_ids: list[int] | None
    plain_stats: DecodingStats | None


@dataclass(frozen=True)
class PromptRow:
    """One prompt, decoded with the drafter and, if there is a plain side, without.

    Args:
        index: place in the run's prompts.
        question_id, category, kind: see `PromptRecord`.
        turns: one for a question, several for a conversation; at least one.
        seed: of its random numbers.
        comparable: whether both sides must give the same tokens (greedy, or a rule that follows plain decoding).
        ttft_seconds: from the request to its first token; of the first turn.
        gaps_seconds: from each arrival of tokens to the next in its turn.
        kv_occupancy, kv_waste: mean share of the cache's slots that were allocated, and of those, that held no token.
        steps: what happened on the way.
    """

    index: int
    question_id: str
    category: str
    kind: str | None
    turns: list[TurnRow]
    seed: int
    comparable: bool
    ttft_seconds: float
    gaps_seconds: list[float]
    kv_occupancy: float
    kv_waste: float
    steps: list[StepRow] = field(default_factory=list)

    @property
    def prompt(self) -> str:
        """The first turn's."""
        return self.turns[0].prompt

    @property
    def text(self) -> str:
        """All answers with the drafter."""
        return "\n\n".join(turn.text for turn in self.turns)

    @property
    def token_ids(self) -> list[int]:
        """Of all answers with the drafter, one after the other."""
        return [token for turn in self.turns for token in turn.token_ids]

    @property
    def plain_token_ids(self) -> list[int] | None:
        """The same of the plain side, if there is one."""
        sides = [turn.plain_token_ids for turn in self.turns]
        return [token for side in sides for token in side or ()] if None not in sides else None

    @property
    def stats(self) -> DecodingStats:
        """Of all turns, with the drafter."""
        return DecodingStats.total(turn.stats for turn in self.turns)

    @property
    def plain_stats(self) -> DecodingStats | None:
        """The same of the plain side, if there is one."""
        sides = [turn.plain_stats for turn in self.turns if turn.plain_stats is not None]
        return DecodingStats.total(sides) if sides else None

    @property
    def identical(self) -> bool | None:
        """Whether both sides gave the same tokens; None if they need not, or there is one only."""
        return self.token_ids == self.plain_token_ids if self.comparable and self.plain_token_ids is not None else None

    @classmethod
    def parse(cls, line: str) -> PromptRow:
        """From a line of `rows.jsonl`.

        Raises:
            ValueError: if it is not what `line` made: no JSON, another field, a value of another type.
        """
        row = _built(cls, json.loads(line))
        assert isinstance(row, PromptRow)
        return row

    def line(self) -> str:
        """For `rows.jsonl`."""
        return json.dumps(asdict(self)) + "\n"

    def table_row(self) -> dict[str, Any]:
        """As a row of `ROWS`: without steps, with the figures that a reader looks for."""
        row = {name: value for name, value in asdict(self).items() if name != "steps"}
        stats, plain = self.stats, self.plain_stats
        speed, plain_speed = stats.tokens_per_second, plain.tokens_per_second if plain is not None else None
        return row | {
            "prompt": self.prompt,
            "text": self.text,
            "token_ids": self.token_ids,
            "plain_token_ids": self.plain_token_ids,
            "finish_reason": self.turns[-1].finish_reason,
            "stats": asdict(stats),
            "plain_stats": asdict(plain) if plain is not None else None,
            "prompt_tokens": stats.prompt_tokens,
            "cached_tokens": stats.cached_tokens,
            "output_tokens": stats.output_tokens,
            "identical": self.identical,
            "tau": stats.mean_accepted_length,
            "alpha": stats.acceptance_rate,
            "tokens_per_second": speed,
            "plain_tokens_per_second": plain_speed,
            "speedup": speed / plain_speed if plain_speed else None,
            "ttft_ms": 1e3 * self.ttft_seconds,
        }


def _built(cls: type, values: Any) -> Any:
    """A dataclass of what JSON holds; each field must be there and be of its type."""
    hints = _hints(cls)
    if not isinstance(values, dict) or values.keys() != hints.keys():
        raise ValueError(f"it has not the fields of {cls.__name__}")
    return cls(**{name: _fitted(f"{cls.__name__}.{name}", hint, values[name]) for name, hint in hints.items()})


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _fitted(name: str, hint: Any, value: Any) -> Any:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        [inner] = [part for part in parts if part is not NoneType]
        return None if value is None else _fitted(name, inner, value)
    if origin is list and isinstance(value, list):
        return [_fitted(name, parts[0], each) for each in value]
    if is_dataclass(hint) and isinstance(hint, type):
        return _built(hint, value)
    if type(value) is hint or (hint is float and type(value) is int):
        return value
    raise ValueError(f"{name} is {type(value).__name__}")
