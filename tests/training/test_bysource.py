"""Answers are counted and judged by where their prompts come from."""

from __future__ import annotations

import pytest

from specdec.training.batches import Batching, Texts
from specdec.training.bysource import learnt, tried
from specdec.training.loop import Data
from specdec.training.simulate import Simulated, simulate
from tests.training import scenes


def test_every_answer_counts_where_its_prompt_comes_from() -> None:
    texts, held_out = Texts([([1], [2, 3]), ([4], [5]), ([6], [7, 8, 9])]), Texts([([1, 2], [3])], 3)
    data = Data(texts, held_out, ("task", "passage", "task", "passage"))
    assert learnt(data) == {"passage": {"answers": 1, "tokens": 1}, "task": {"answers": 2, "tokens": 5}}

    def judge(part: Texts) -> Simulated:
        assert part.numbers.tolist() == [3]
        return Simulated(1.5, [0.5], [0.25])

    assert tried(data, judge) == {
        "passage": {"answers": 1, "tokens": 1, "tau": 1.5, "accuracy": [0.5], "survival": [0.25]}
    }


def test_sources_together_are_the_whole() -> None:
    """Hits of a position, weighted by how many rows have it, are those of all answers."""
    module = scenes.target()
    head, held_out = scenes.head(module), scenes.texts(module, 12, seed=4)
    data = Data(Texts([]), held_out, ("a", "b", "b") * 4)
    teacher, sizes = scenes.teacher(module, head), Batching(texts=4, anchors=8, max_length=64)
    found = tried(data, lambda part: simulate(head, teacher, part, sizes))
    whole = simulate(head, teacher, held_out, sizes)
    rows = {name: one["tokens"] - one["answers"] for name, one in found.items()}  # no draft for an answer's first token
    mixed = sum(found[name]["accuracy"][0] * rows[name] for name in rows) / sum(rows.values())
    assert sorted(found) == ["a", "b"]
    assert mixed == pytest.approx(whole.accuracy[0], abs=1e-12)
    assert min(one["tau"] for one in found.values()) <= whole.tau <= max(one["tau"] for one in found.values())
