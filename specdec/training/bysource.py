"""Answers by where their prompts come from: how many a head learnt from, and what it can do on those held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from specdec.training.batches import Texts
from specdec.training.loop import Data
from specdec.training.simulate import Simulated

Judge = Callable[[Texts], Simulated]
"""What a head would give on texts."""


def learnt(data: Data) -> dict[str, dict[str, int]]:
    """Source → how many `answers` are learnt from, and their `tokens`."""
    return {source: _counts(texts) for source, texts in _parts(data.texts, data.sources).items()}


def tried(data: Data, judge: Judge) -> dict[str, dict[str, Any]]:
    """Source → how many `answers` are held out, their `tokens`, and what `judge` says of them."""
    parts = _parts(data.held_out, data.sources)
    return {source: _counts(texts) | asdict(judge(texts)) for source, texts in parts.items()}


def _parts(texts: Texts, sources: tuple[str, ...]) -> dict[str, Texts]:
    own = [sources[number] for number in texts.numbers.tolist()]
    return {
        source: texts.part([place for place, one in enumerate(own) if one == source]) for source in sorted(set(own))
    }


def _counts(texts: Texts) -> dict[str, int]:
    return {"answers": len(texts), "tokens": texts.num_answer_tokens}
