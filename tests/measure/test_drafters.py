"""Who drafted when, counted by hand on two prompts."""

from __future__ import annotations

from dataclasses import replace

from specdec.measure.drafters import FIRST_END, MOST_KINDS, along_the_text, by_drafter, part_of, survival
from specdec.measure.rows import PromptRow, StepRow, TurnRow
from specdec.policy.always import AlwaysPolicy
from specdec.policy.base import Draft
from specdec.policy.curve import CostCurve
from specdec.policy.product import ProductPolicy
from specdec.stats import NOBODY, DecodingStats
from specdec.verify.tree import DraftTree

Step = tuple[str, int, int]
"""Drafter, draft nodes, tokens emitted."""


def row(index: int, category: str, prompt: int, steps: list[Step]) -> PromptRow:
    """A prompt of so many tokens, decoded in these steps; drafting took half a second for each node."""
    stats, kept, anchor = DecodingStats(prompt_tokens=prompt), [], prompt
    for number, (drafter, drafted, emitted) in enumerate(steps):
        stats.record_step(emitted, drafted, emitted - 1, emitted - 1, drafter)
        stats.of(drafter).seconds += drafted / 2
        kept.append(StepRow(index, 0, number, anchor, drafted, emitted - 1, emitted - 1, [], [], None, drafter))
        anchor += emitted
    turn = TurnRow("", "", [], "length", stats, None, None, None)
    return PromptRow(index, f"q{index}", category, None, [turn], 0, False, 0.1, [], 0.5, 0.25, kept)


ROWS = [
    row(0, "chat", 100, [("quick", 4, 5), ("quick", 4, 1), (NOBODY, 0, 1), ("slow", 8, 9), ("slow", 8, 1)]),
    row(1, "code", 7, [("slow", 6, 7), ("slow", 6, 7), ("quick", 2, 2), ("quick", 2, 3), (NOBODY, 0, 1)]),
]
# Where these steps begin: 0, 5, 6, 7, 16 of the first text, 0, 7, 14, 16, 19 of the second.


def test_the_counts_of_every_category_are_those_of_its_steps() -> None:
    names = ("drafter", "steps", "share", "drafted_tokens", "accepted_tokens", "output_tokens", "tau", "seconds")
    told: dict[str | None, list[tuple[object, ...]]] = {}
    for record in by_drafter(ROWS):
        told.setdefault(record["category"], []).append(tuple(record[name] for name in names))
    assert told == {
        None: [("quick", 4, 0.4, 12, 7, 11, 2.75, 6.0), (NOBODY, 2, 0.2, 0, 0, 2, 1.0, 0.0),
               ("slow", 4, 0.4, 28, 20, 24, 6.0, 14.0)],
        "chat": [("quick", 2, 0.4, 8, 4, 6, 3.0, 4.0), (NOBODY, 1, 0.2, 0, 0, 1, 1.0, 0.0),
                 ("slow", 2, 0.4, 16, 8, 10, 5.0, 8.0)],
        "code": [("slow", 2, 0.4, 12, 12, 14, 7.0, 6.0), ("quick", 2, 0.4, 4, 3, 5, 2.5, 2.0),
                 (NOBODY, 1, 0.2, 0, 0, 1, 1.0, 0.0)],
    }  # fmt: skip


def test_a_step_counts_in_the_part_of_the_text_where_it_begins() -> None:
    told = {(one["category"], one["begin"], one["end"], one["drafter"]): one["steps"] for one in along_the_text(ROWS)}
    assert told == {
        (None, 0, 16, "quick"): 3, (None, 0, 16, "slow"): 3, (None, 0, 16, NOBODY): 1,
        (None, 16, 32, "slow"): 1, (None, 16, 32, "quick"): 1, (None, 16, 32, NOBODY): 1,
        ("chat", 0, 16, "quick"): 2, ("chat", 0, 16, "slow"): 1, ("chat", 0, 16, NOBODY): 1,
        ("chat", 16, 32, "slow"): 1,
        ("code", 0, 16, "slow"): 2, ("code", 0, 16, "quick"): 1,
        ("code", 16, 32, "quick"): 1, ("code", 16, 32, NOBODY): 1,
    }  # fmt: skip
    shares = {(one["drafter"], one["part"]): one["share"] for one in along_the_text(ROWS) if one["category"] is None}
    assert shares[("quick", 0)] == 3 / 7
    assert shares[("slow", 1)] == 1 / 3


def test_each_turn_of_a_conversation_is_a_text_of_its_own() -> None:
    first, second = row(0, "chat", 100, [("quick", 4, 5)]), row(0, "chat", 120, [("slow", 4, 20), ("slow", 4, 1)])
    steps = [*first.steps, *(replace(step, turn=1) for step in second.steps)]
    told = along_the_text([replace(first, turns=[*first.turns, *second.turns], steps=steps)])
    assert [(one["begin"], one["drafter"], one["steps"]) for one in told if one["category"] is None] == [
        (0, "quick", 1), (0, "slow", 1), (16, "slow", 1)
    ]  # fmt: skip


def test_parts_cover_every_position_once_and_grow() -> None:
    ends = [FIRST_END << part for part in range(12)]
    for position in range(5000):
        begin_of_part = 0 if part_of(position) == 0 else ends[part_of(position)] // 2
        assert begin_of_part <= position < ends[part_of(position)]


def test_a_job_that_did_nothing_tells_nothing() -> None:
    assert (by_drafter([row(0, "chat", 3, [])]), along_the_text([])) == ([], [])


def test_what_a_policy_has_learnt_is_told_by_drafter_and_kind() -> None:
    policy = ProductPolicy(CostCurve((1, 8), (1.0, 2.0)))
    assert survival(policy) == []
    tree = DraftTree((5, 6), (-1, 0), kinds=(9, 4), chances=(0.5, 0.5))
    policy.survival.observe(0, Draft("b", tree), [0, 1], [0])
    policy.survival.observe(1, Draft("a", tree), [0], [])
    assert survival(policy) == [
        {"drafter": "a", "kind": 9, "rate": 0.0, "weight": 1.0},
        {"drafter": "b", "kind": 4, "rate": 0.0, "weight": 1.0},
        {"drafter": "b", "kind": 9, "rate": 1.0, "weight": 1.0},
    ]
    assert survival(AlwaysPolicy()) == []


def test_of_many_kinds_those_that_were_seen_most_are_told() -> None:
    policy = ProductPolicy(CostCurve((1, 8), (1.0, 2.0)))
    for kind in range(100):
        for _ in range(1 + (kind % 3 == 0)):
            policy.survival.observe(0, Draft("a", DraftTree((5,), (-1,), kinds=(kind,))), [0], [])
    told = survival(policy)
    assert [one["kind"] for one in told] == list(range(0, 3 * MOST_KINDS, 3))
