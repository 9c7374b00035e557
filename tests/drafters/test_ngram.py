"""Prompt lookup against a scan of the whole text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec import ConfigError
from specdec.drafters.ngram import ENTRY_BYTES, NgramDrafter
from specdec.verify.tree import DraftTree
from tests.drafting import draft_request

texts = st.integers(1, 3).flatmap(lambda size: st.lists(st.integers(0, size - 1), min_size=1, max_size=24))
sizes = st.tuples(st.integers(1, 3), st.integers(0, 3)).map(lambda pair: (pair[0], pair[0] + pair[1]))


def scan(tokens: Sequence[int], min_match: int, max_match: int, branches: int, length: int) -> list[list[int]]:
    """Continuations of the latest earlier occurrences of the longest suffix that has one."""
    for size in range(min(max_match, len(tokens)), min_match - 1, -1):
        suffix = tokens[-size:]
        starts = [end for end in range(size, len(tokens)) if tokens[end - size : end] == suffix]
        if starts:
            return [continued(tokens, start, length) for start in starts[::-1][:branches]]
    return []


def continued(tokens: Sequence[int], start: int, length: int) -> list[int]:
    """Copies one token after the other; a copy that comes to the end of the text reads what it has just written."""
    text = list(tokens)
    for i in range(length):
        text.append(text[start + i])
    return text[len(tokens) :]


@given(texts, sizes, st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_below_a_draft_is_what_followed_its_end_before(
    tokens: list[int], bounds: tuple[int, int], draft: list[int]
) -> None:
    """What is known are the n-grams of the text; those that end in the draft are not."""
    [larger] = NgramDrafter(3, *bounds).extend([draft_request(tokens, 8)], [DraftTree.chain(draft)])
    assert larger.tokens[: len(draft)] == tuple(draft)
    assert larger.is_chain
    text, expected = [*tokens, *draft], list[int]()
    for size in range(min(bounds[1], len(text)), bounds[0] - 1, -1):
        starts = [end for end in range(size, len(tokens)) if tokens[end - size : end] == text[-size:]]
        if starts:
            expected = continued(text, starts[-1], 3)
            break
    assert list(larger.tokens[len(draft) :]) == expected
    assert len(larger.kinds) == len(larger.chances) == len(larger)


def branches_of(tree: DraftTree) -> list[tuple[int, ...]]:
    return [tree.prefix(node) for node in range(len(tree))]


def prefixes(chains: list[list[int]]) -> list[tuple[int, ...]]:
    """What the trie of the chains holds, in its order."""
    return list(dict.fromkeys(tuple(chain[: n + 1]) for chain in chains for n in range(len(chain))))


@given(texts, sizes, st.integers(1, 3), st.integers(1, 6), st.integers(1, 6))
def test_a_proposal_is_what_a_scan_of_the_text_finds(
    text: list[int], match: tuple[int, int], branches: int, limit: int, asked: int
) -> None:
    drafter = NgramDrafter(limit, *match, branches)
    [tree] = drafter.propose([draft_request(text, asked)])
    assert branches_of(tree) == prefixes(scan(text, *match, branches, min(limit, asked)))
    assert tree.q is None


@given(texts, sizes, st.integers(1, 3), st.lists(st.integers(1, 5), max_size=8))
def test_a_text_that_grows_is_scanned_no_differently(
    text: list[int], match: tuple[int, int], branches: int, increments: list[int]
) -> None:
    """Two texts grow in turn; proposals are made where the increments end, twice each."""
    drafter, other = NgramDrafter(4, *match, branches), text[::-1]
    end = 0
    for increment in [*increments, len(text)]:
        end = min(end + increment, len(text))
        for _ in range(2):
            trees = drafter.propose([draft_request(text[:end]), draft_request(other[:end], request_id=1)])
            assert branches_of(trees[0]) == prefixes(scan(text[:end], *match, branches, 4))
            assert branches_of(trees[1]) == prefixes(scan(other[:end], *match, branches, 4))


def test_proposals_by_hand() -> None:
    text = [1, 2, 3, 9, 2, 3, 8, 1, 2, 3]
    cases = {(3, 1): [9, 2, 3], (2, 1): [8, 1, 2], (1, 1): [8, 1, 2]}  # the longest match wins, then the latest
    for (max_match, branches), want in cases.items():
        [tree] = NgramDrafter(3, 1, max_match, branches).propose([draft_request(text)])
        assert list(tree.tokens) == want
        assert tree.is_chain
    [fork] = NgramDrafter(2, 1, 2, branches=2).propose([draft_request(text)])
    assert branches_of(fork) == [(8,), (8, 1), (9,), (9, 2)]
    [again] = NgramDrafter(5, 2, 2).propose([draft_request([5, 6, 5, 6])])
    assert again.tokens == (5, 6, 5, 6, 5)
    [new] = NgramDrafter(5, 2, 2).propose([draft_request([1, 2, 3])])
    assert len(new) == 0


def test_a_released_text_is_forgotten_and_the_others_are_not() -> None:
    drafter = NgramDrafter(2, 1, 1)
    old, kept, new = [7, 8, 7, 8, 1], [4, 5, 4], [0, 0, 0, 0, 0, 7]
    drafter.propose([draft_request(old), draft_request(kept, request_id=1)])
    drafter.end(0, old)
    trees = drafter.propose([draft_request(new), draft_request([*kept, 5], request_id=1)])
    assert [tree.tokens for tree in trees] == [(), (4, 5)]


def test_releasing_an_unknown_request_does_nothing() -> None:
    NgramDrafter().end(3, [1])


class Spied(list[int]):
    """Counts the tokens that are read from it."""

    reads = 0

    def __getitem__(self, at: int | slice) -> int | list[int]:  # type: ignore[override]
        found = super().__getitem__(at)
        self.reads += len(found) if isinstance(found, list) else 1
        return found

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("the whole text is read")


@pytest.mark.parametrize("branches", [1, 3])
def test_a_proposal_reads_no_more_of_a_long_text_than_of_a_short_one(branches: int) -> None:
    """A text of one token over and over has the most occurrences. Reads are tokens to index, suffix and copy."""

    def reads(length: int) -> int:
        drafter = NgramDrafter(4, 2, 4, branches)
        text = Spied([1] * length)
        drafter.propose([draft_request(text)])
        text.append(1)
        text.reads = 0
        [tree] = drafter.propose([draft_request(text)])
        assert tree.tokens == (1, 1, 1, 1)
        return text.reads

    few = (2 + 3 + 4) + 4 + 4 * branches
    assert reads(20) == reads(3000) <= few


def test_the_index_keeps_no_more_places_of_an_ngram_than_it_follows() -> None:
    drafter = NgramDrafter(2, 1, 2, branches=3)
    drafter.propose([draft_request([1] * 500)])
    assert {gram: len(ends) for gram, ends in drafter._indexes[0]._ends.items()} == {(1,): 3, (1, 1): 3}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_draft_tokens": 0}, "num_draft_tokens = 0 .*drafter='none'"),
        ({"branches": 0}, "branches = 0 .*1 proposes chains"),
        ({"min_match": 0}, "min_match = 0 cannot work"),
        ({"min_match": 5}, "min_match = 5 is above max_match = 4"),
        ({"min_match": 2, "max_match": 1}, "min_match = 2 is above max_match = 1"),
    ],
)
def test_sizes_that_cannot_work_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NgramDrafter(**options)


def test_what_it_holds_grows_with_the_text_and_goes_with_the_request() -> None:
    drafter = NgramDrafter(min_match=1, max_match=2)
    assert drafter.memory() == 0
    drafter.propose([draft_request([1, 2, 3, 1, 2])])  # 1, 2, 3, and 12, 23, 31: what came before the last token
    assert drafter.memory() == 6 * ENTRY_BYTES
    drafter.end(0, [])
    assert drafter.memory() == 0
