"""Lookahead decoding against the paper's windows, written out without trees."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from specdec import ConfigError, DraftTree, Outcome
from specdec.drafters.lookahead import LookaheadDrafter
from specdec.verify.tree import ROOT
from tests.drafting import draft_request

Model = Callable[[Sequence[int]], int]
"""Text → the token that the target says next."""
PROMPT = list(range(40, 60))


def hashed(size: int, memory: int) -> Model:
    """A target whose next token depends on the last few."""
    return lambda text: zlib.crc32(bytes(text[-memory:])) % size


def outcome(text: Sequence[int], tree: DraftTree, model: Model) -> Outcome:
    """What the target makes of a draft, greedily."""
    said = [model([*text, *tree.prefix(node)]) for node in range(ROOT, len(tree))]
    path: list[int] = []
    while True:
        node = path[-1] if path else ROOT
        right = [child for child in tree.children(node) if tree.tokens[child] == said[node + 1]]
        if not right:
            break
        path.append(right[0])
    tokens = [*(tree.tokens[node] for node in path), said[(path[-1] if path else ROOT) + 1]]
    top = torch.tensor(said, dtype=torch.int32)[:, None]
    return Outcome(0, len(text) - 1, text[-1:], tree, "lookahead", tuple(path), tokens, top=top)


class Reference:
    """The paper's two windows and its pool, with each row's context written out (its figure 5).

    Args:
        levels: level 0 of W columns, the first of which is the last token of the text; then the other levels.
        guesses: G.
    """

    def __init__(self, levels: list[list[int]], guesses: int) -> None:
        self.levels, self.guesses = levels, guesses
        self.pool: dict[int, list[tuple[int, ...]]] = {}
        self.passes = 0

    def contexts(self, text: Sequence[int]) -> list[list[int]]:
        """What the last level of each column sees: the text, level 0 up to its column, its own column."""
        width, level0 = len(self.levels[0]), self.levels[0]
        return [[*text, *level0[1 : i + 1], *(row[i] for row in self.levels[1:])] for i in range(width)]

    def step(self, text: Sequence[int], model: Model) -> list[int]:
        """One pass: the tokens that are committed."""
        assert self.levels[0][0] == text[-1]
        branches = [list(followers) for followers in self.pool.get(text[-1], [])]
        branches += [context[len(text) :] for context in self.contexts(text)]
        results = [model(context) for context in self.contexts(text)]
        gained: list[int] = []
        while True:
            gained.append(model([*text, *gained]))
            if not any(branch[: len(gained)] == gained for branch in branches):
                break
        self.passes += 1
        if self.passes >= len(self.levels):
            for column, result in enumerate(results):
                self.keep(self.levels[0][column], (*(row[column] for row in self.levels[1:]), result))
        self.levels = [*self.levels[1:], results]
        self.levels[0] = [gained[-1], *self.levels[0][1:]]
        return gained

    def keep(self, head: int, followers: tuple[int, ...]) -> None:
        latest = [followers, *(old for old in self.pool.get(head, []) if old != followers)]
        self.pool[head] = latest[: self.guesses]


@pytest.mark.parametrize("memory", [1, 2, 30])
@pytest.mark.parametrize(
    ("width", "ngram", "guesses"), [(3, 3, 2), (1, 2, 1), (4, 2, 3), (1, 4, 2), (5, 4, 1), (7, 5, 7)]
)
def test_windows_pool_and_text_are_those_of_the_paper(width: int, ngram: int, guesses: int, memory: int) -> None:
    model, text = hashed(7, memory), [3, 1, 4, 1, 5, 2, 6, 5]
    drafter = LookaheadDrafter(width, ngram, guesses, pool_from_prompt=False)
    for step in range(60):
        [tree] = drafter.propose([draft_request(text, max_depth=64)])
        window = drafter._windows[0]
        if step == 0:
            first, *others = window.rows
            reference = Reference([[text[-1], *first], *others], guesses)
        seen = outcome(text, tree, model)
        drafter.observe([seen])
        assert list(seen.tokens) == reference.step(text, model)
        assert [[seen.tokens[-1], *window.rows[0]], *window.rows[1:]] == reference.levels
        assert window.pool == reference.pool
        text = [*text, *seen.tokens]


def test_the_draft_of_a_window_of_3_and_3_by_hand() -> None:
    """Level 0 is 41, 42 (column 0 has the text's last token), level 1 is 50, 51, 52."""
    drafter = LookaheadDrafter(3, 3, 2, pool_from_prompt=False)
    drafter.propose([draft_request(PROMPT)])
    drafter._windows[0].rows = [[41, 42], [50, 51, 52]]
    drafter._windows[0].pool = {PROMPT[-1]: [(30, 31), (32, 33)]}
    [tree] = drafter.propose([draft_request(PROMPT)])
    seen = {tree.tokens[node]: (tree.depths[node], tree.prefix(node)[:-1]) for node in range(len(tree))}
    assert seen == {
        # token: (places after the next one, draft tokens that it sees)
        41: (0, ()),
        42: (1, (41,)),
        50: (0, ()),
        51: (1, (41,)),
        52: (2, (41, 42)),
        30: (0, ()),
        31: (1, (30,)),
        32: (0, ()),
        33: (1, (32,)),
    }
    assert len(tree) == 9 == drafter.max_nodes(8)


def test_deeper_levels_hang_in_their_own_columns() -> None:
    drafter = LookaheadDrafter(2, 4, 1, pool_from_prompt=False)
    drafter.propose([draft_request(PROMPT)])
    drafter._windows[0].rows = [[41], [50, 51], [60, 61]]
    [tree] = drafter.propose([draft_request(PROMPT)])
    assert sorted(tree.prefix(node) for node in range(len(tree))) == [(41,), (41, 51), (41, 51, 61), (50,), (50, 60)]


def test_the_prompts_ngrams_are_guessed_the_latest_first() -> None:
    text = [1, 2, 3, 1, 4, 5, 1, 2, 3, 1, 6, 7, 1]
    [tree] = LookaheadDrafter(1, 3, 2).propose([draft_request(text)])
    assert [tree.prefix(node) for node in range(4)] == [(6,), (6, 7), (2,), (2, 3)]


def test_a_text_of_short_memory_gains_tokens() -> None:
    """Each next token depends on one other, so that n-grams are right wherever their first token is."""
    model, text, passes = hashed(97, 1), [5], 0
    drafter = LookaheadDrafter(5, 5, 5)
    while len(text) < 300:
        [tree] = drafter.propose([draft_request(text, max_depth=64)])
        seen = outcome(text, tree, model)
        drafter.observe([seen])
        text, passes = [*text, *seen.tokens], passes + 1
    assert len(text) / passes > 2


def test_a_window_that_was_cut_stands_still() -> None:
    """As a policy cuts it, or the end of the text; the next whole pass moves it on."""
    model, drafter = hashed(50, 2), LookaheadDrafter(3, 3, 2)
    [tree] = drafter.propose([draft_request(PROMPT)])
    rows = [list(row) for row in drafter._windows[0].rows]
    drafter.observe([outcome(PROMPT, tree.truncated(1), model), outcome(PROMPT, DraftTree(), model)])
    drafter.observe([replace(outcome(PROMPT, tree, model), drafter="ngram")])
    assert drafter._windows[0].rows == rows
    [short] = drafter.propose([draft_request(PROMPT, max_depth=1)])
    assert short.depth == 1
    drafter.observe([outcome(PROMPT, tree, model)])
    assert drafter._windows[0].rows != rows


def test_what_is_kept_is_bounded_and_goes_with_its_request() -> None:
    model, drafter, text = hashed(200, 3), LookaheadDrafter(6, 3, 2), list(PROMPT)
    for _ in range(500):
        [tree] = drafter.propose([draft_request(text)])
        seen = outcome(text, tree, model)
        drafter.observe([seen])
        text += seen.tokens
    assert max(map(len, drafter._windows[0].pool.values())) == 2
    assert drafter.memory() > 0
    for leave in (drafter.forget, lambda request: drafter.end(request, text)):
        drafter.propose([draft_request(text)])
        leave(0)
        assert not drafter._windows
        assert drafter.memory() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window = 0 cannot work. Give an integer from 1 to 64"),
        ({"ngram": 1}, "ngram = 1 cannot work. Give an integer from 2 to 64"),
        ({"guesses": 65}, "guesses = 65 cannot work"),
        ({"pool_from_prompt": 1}, "pool_from_prompt = 1 cannot work. Give True or False"),
        ({"window": 64, "ngram": 64}, "window = 64, ngram = 64 and guesses = 2 make drafts of 4157 tokens"),
    ],
)
def test_sizes_that_cannot_work_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LookaheadDrafter(**options)  # type: ignore[arg-type]
