"""Drafts from what followed the text's end before: against scans of whole texts and exact fractions, in both forms."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ctypes import POINTER, c_void_p, cast
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specdec.errors import SpecdecError
from specdec.kernels.suffix import Bounds, Nodes, reference
from specdec.kernels.suffix.native import NativeIndex, native_draft
from specdec.kernels.suffix.reference import CHANCES, CONTEXTS, FOLLOWERS, LENGTHS, MATCH
from tests.kernels.variants import every_architecture, kernels

Texts = list[list[int]]
Draft = Callable[[Sequence[Texts], Sequence[int], Bounds, Nodes], Nodes]
WIDE = Bounds(nodes=40, depth=4, branches=8, floor=0.02)
NONE = Nodes()


def native(sources: Sequence[Texts], text: Sequence[int], bounds: Bounds, given: Nodes = NONE) -> Nodes:
    """Token by token, so that every append happens on its own."""
    made = []
    for texts in sources:
        index = NativeIndex(kernels("native"))
        for one in texts:
            index.extend([], fresh=True)
            for token in one:
                index.extend([token])
        made.append(index)
    return native_draft(made, text, bounds, given)


def plain(sources: Sequence[Texts], text: Sequence[int], bounds: Bounds, given: Nodes = NONE) -> Nodes:
    made = []
    for texts in sources:
        index = reference.Index()
        for one in texts:
            index.extend(one, fresh=True)
        made.append(index)
    return reference.draft(made, text, bounds, given)


FORMS: dict[str, Draft] = {"native": native, "plain": plain}
both = pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))


def repetitive(size: int) -> st.SearchStrategy[list[int]]:
    """Texts in which words come again."""
    word = st.lists(st.integers(0, size - 1), min_size=1, max_size=5)
    return st.lists(st.tuples(word, st.integers(1, 4)), max_size=5).map(
        lambda words: [token for one, times in words for token in one * times]
    )


texts = st.integers(1, 4).flatmap(repetitive)
sources = st.lists(st.lists(texts, min_size=1, max_size=3), min_size=1, max_size=3)
bounds = st.builds(
    Bounds, st.integers(0, 20), st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.0, 0.02, 0.1, 0.4])
)


@st.composite
def forests(draw: st.DrawFn) -> Nodes:
    count = draw(st.integers(0, 5))
    parents = [draw(st.integers(-1, node - 1)) for node in range(count)]
    chances = [draw(st.floats(0.1, 1.0)) for _ in range(count)]
    return Nodes([draw(st.integers(0, 3)) for _ in range(count)], parents, chances, [0] * count)


# ----------------------------------------------------------------------------------------------- scans of whole texts
def followers(texts: Texts, context: Sequence[int]) -> Counter[int]:
    """How often each token came after a context, by looking everywhere."""
    found: Counter[int] = Counter()
    for text in texts:
        for end in range(len(context), len(text)):
            if list(text[end - len(context) : end]) == list(context):
                found[text[end]] += 1
    return found


def chances(sources: Sequence[Texts], text: Sequence[int]) -> dict[int, Fraction]:
    """Of every token that may follow, exactly; counts of longer contexts are not counted again."""
    seen: list[tuple[int, int, Counter[int], Fraction]] = []
    for number, texts in enumerate(sources):
        total, weight = 0, sum(map(len, texts)) ** 0.2
        for length in range(min(MATCH, len(text)), 0, -1):
            found = followers(texts, text[len(text) - length :])
            if found.total() > total:
                total = found.total()
                seen.append((-length, number, found, Fraction(weight)))
    made: dict[int, Fraction] = {}
    left = Fraction(1)
    for length, _, found, weight in sorted(seen, key=lambda each: each[:2])[:CONTEXTS]:
        escape = weight * len(found) / -length
        for token, count in found.items():
            made[token] = made.get(token, Fraction(0)) + left * count / (found.total() + escape)
        left *= escape / (found.total() + escape)
    return made


def everything(
    sources: Sequence[Texts], text: list[int], depth: int, survival: Fraction = Fraction(1)
) -> Iterator[Fraction]:
    """Chances with which every path of so many tokens or fewer is accepted."""
    for token, chance in chances(sources, text).items():
        yield survival * chance
        if depth > 1:
            yield from everything(sources, [*text, token], depth - 1, survival * chance)


def survivals(nodes: Nodes) -> list[float]:
    found: list[float] = []
    for parent, chance in zip(nodes.parents, nodes.chances, strict=True):
        found.append(chance * (found[parent] if parent >= 0 else 1.0))
    return found


def prefix(nodes: Nodes, node: int) -> list[int]:
    return [] if node < 0 else [*prefix(nodes, nodes.parents[node]), nodes.tokens[node]]


@both
@settings(max_examples=60)
@given(sources, texts, st.data())
def test_chances_are_those_of_a_scan_of_all_texts(
    form: Draft, sources: list[Texts], text: list[int], data: st.DataObject
) -> None:
    """At most four tokens, so none is left out for want of room."""
    if data.draw(st.booleans()) and sources[0][-1]:
        text = sources[0][-1]  # as of a request whose own text is the first source
    nodes = form(sources, text, WIDE, NONE)
    for node, parent in enumerate(nodes.parents):
        want = chances(sources, [*text, *prefix(nodes, parent)])
        assert nodes.chances[node] == pytest.approx(float(want[nodes.tokens[node]]), rel=1e-12)


@both
@settings(max_examples=40)
@given(sources, texts, st.integers(1, 12), st.sampled_from([0.02, 0.1, 0.3]))
def test_no_tree_of_as_many_nodes_is_likelier(
    form: Draft, sources: list[Texts], text: list[int], count: int, floor: float
) -> None:
    nodes = form(sources, text, Bounds(count, 3, FOLLOWERS, floor), NONE)
    best = sorted((one for one in everything(sources, text, 3)), reverse=True)
    want = [float(one) for one in best if one >= Fraction(floor) + Fraction(1, 10**9)][:count]
    assert survivals(nodes)[: len(want)] == pytest.approx(want, rel=1e-9)
    assert all(one >= floor for one in survivals(nodes))
    assert survivals(nodes) == sorted(survivals(nodes), reverse=True)


@settings(max_examples=200)
@given(sources, texts, bounds, forests())
def test_the_native_draft_is_the_plain_one_to_the_bit(
    sources: list[Texts], text: list[int], bounds: Bounds, given: Nodes
) -> None:
    for end in (text, sources[0][-1]):
        found = [list(map(list, form(sources, end, bounds, given))) for form in FORMS.values()]
        assert found[0] == found[1]


@every_architecture
def test_every_instruction_set_drafts_alike(architecture: str) -> None:
    index = NativeIndex(kernels(architecture))
    text = [n * n % 7 for n in range(300)]
    index.extend(text)
    nodes = native_draft([index], text, WIDE, NONE)
    assert list(map(list, nodes)) == list(map(list, plain([[text]], text, WIDE, NONE)))


# ------------------------------------------------------------------------------------------------------------- by hand
@both
def test_a_continuation_seen_once_is_certain_before_smoothing(form: Draft) -> None:
    """The end of the text is an occurrence of 1 2 too; nothing has followed it, so it does not count: 1 of 1, not of 2.
    The shorter match 2 has the same follower as often, and says nothing more."""
    text = [1, 2, 3, 1, 2]
    w = 5**0.2
    [chance] = form([[text]], text, Bounds(1, 1, 1, 0.0), NONE).chances
    assert chance == pytest.approx(1 / (1 + w / 2))


@both
def test_an_example_by_hand(form: Draft) -> None:
    """After 1 2 came 3, 3 and 4; after 2 also 5."""
    text = [1, 2, 3, 1, 2, 3, 1, 2, 4, 9, 2, 5, 1, 2]
    nodes = form([[text]], text, Bounds(3, 1, 8, 0.0), NONE)
    w = 14**0.2
    first, left = 1 / (3 + w * 2 / 2), w * 2 / 2 / (3 + w * 2 / 2)
    second = left / (4 + w * 3 / 1)
    assert list(nodes.tokens) == [3, 4, 5]
    assert list(nodes.chances) == pytest.approx([2 * first + 2 * second, first + second, second])


@both
def test_matches_go_on_through_the_draft(form: Draft) -> None:
    """7 follows both 3 5 and 4 5; then it is 1 after 3 5 7 and 2 after 4 5 7."""
    for start, end in ((3, 1), (4, 2)):
        nodes = form([[[3, 5, 7, 1], [4, 5, 7, 2]]], [start], Bounds(3, 9, 1, 0.0), NONE)
        assert list(nodes.tokens) == [5, 7, end]
        w = 8**0.2
        long, short = 1 + w / 3, 2 + w * 2 / 2  # 3 5 7 was followed once; 5 7 twice, by two tokens
        assert nodes.chances[2] == pytest.approx(1 / long + w / 3 / long * 1 / short)


@both
def test_texts_do_not_run_into_each_other(form: Draft) -> None:
    assert not form([[[1, 2], [3, 4]]], [2], WIDE, NONE).tokens
    assert list(form([[[1, 2, 3, 4]]], [2], WIDE, NONE).tokens) == [3, 4]


@both
def test_of_equal_counts_the_latest_goes_first_and_the_first_source_wins(form: Draft) -> None:
    text = [8, 1, 8, 2, 8, 3, 8]
    assert list(form([[text]], text, Bounds(3, 1, 8, 0.0), NONE).tokens) == [3, 2, 1]
    own, others = [[7, 1]], [[7, 2]]
    assert list(form([own, others], [7], Bounds(2, 1, 8, 0.0), NONE).tokens) == [1, 2]
    assert list(form([others, own], [7], Bounds(2, 1, 8, 0.0), NONE).tokens) == [2, 1]


@both
def test_of_many_followers_the_most_frequent_are_known(form: Draft) -> None:
    """Each of 40 tokens follows 0, token t as often as t % 10 says, in a mixed order."""
    pairs = [token for turn in range(10) for token in range(1, 41) if token % 10 > turn]
    text = [each for token in pairs for each in (0, token)] + [0]
    nodes = form([[text]], [99, 0], Bounds(40, 1, 40, 0.0), NONE)
    assert list(nodes.tokens) == [39, 29, 19, 9, 38, 28, 18, 8]


@both
def test_kinds_tell_source_length_and_chance_apart(form: Draft) -> None:
    def kind(text: Sequence[int], own: Texts, others: Texts) -> int:
        nodes = form([own, others], text, Bounds(1, 1, 1, 0.0), NONE)
        [found], [chance] = nodes.kinds, nodes.chances
        assert found % CHANCES == int(chance * CHANCES)
        return found // CHANCES

    long = list(range(20))
    for length, step in ((1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (7, 4), (8, 5), (16, 5)):
        assert kind(long[:length], [long], [[90]]) == step
        assert kind(long[:length], [[90]], [long]) == len(LENGTHS) + step
    assert kind([0], [[90], long], []) == 0


@both
def test_given_nodes_get_children_and_siblings_but_no_twins(form: Draft) -> None:
    text = [1, 2, 3, 1, 2, 4, 1]
    given = Nodes([2, 9], [-1, 0], [0.9, 0.5], [0, 0])
    nodes = form([[text]], text, Bounds(4, 3, 2, 0.05), given)
    assert [*zip(nodes.tokens, nodes.parents, strict=True)][:2] == [(4, 0), (3, 0)]
    assert (2, -1) not in zip(nodes.tokens, nodes.parents, strict=True)
    assert all(-1 <= parent < node for node, parent in enumerate([*given.parents, *nodes.parents]))


# ---------------------------------------------------------------------------------------------------- room, and faults
def fibonacci(length: int) -> list[int]:
    """The word with the fewest different substrings that never repeats for long."""
    a, b = [0], [0, 1]
    while len(b) < length:
        a, b = b, b + a
    return b[:length]


@pytest.mark.parametrize(
    "text",
    [[7] * 9000, [0, 1] * 4500, fibonacci(9000), [0] * 4500 + [1] * 4500, [n * n % 4999 for n in range(9000)]],
    ids=["one token", "two in turn", "Fibonacci", "two runs", "squares"],
)
def test_memory_grows_with_the_text_and_no_faster(text: list[int]) -> None:
    """An automaton of n tokens has at most 2 n states and 3 n edges (Blumer et al. 1985); vectors have room for twice
    as much, and the table for four times."""
    index = NativeIndex(kernels("native"))
    index.extend(text)
    assert index.nbytes <= len(text) * (2 * 20 * 2 + 3 * 24 * 2 + 3 * 4 * 4) + 1024


def test_what_is_no_token_is_refused_and_changes_nothing() -> None:
    text = [1, 2, 3, 1, 2]
    index = NativeIndex(kernels("native"))
    index.extend(text)
    before = native_draft([index], text, WIDE, NONE)
    for bad in (-1, -(2**31)):
        with pytest.raises(SpecdecError, match=f"token 1 is {bad}"):
            index.extend([3, bad])
    assert native_draft([index], text, WIDE, NONE) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (Nodes([1], [0], [0.5], [0]), "node 0 has the parent 0"),
        (Nodes([1, 2], [-1, 2**31 - 1], [0.5, 0.5], [0, 0]), "node 1 has the parent 2147483647"),
        (Nodes([1], [-2], [0.5], [0]), "node 0 has the parent -2"),
        (Nodes([-5], [-1], [0.5], [0]), "token 0 is -5"),
    ],
    ids=str,
)
def test_nodes_that_are_no_tree_are_refused(given: Nodes, words: str) -> None:
    index = NativeIndex(kernels("native"))
    with pytest.raises(SpecdecError, match=words):
        native_draft([index], [1], WIDE, given)


def test_sizes_that_cannot_be_are_refused() -> None:
    index = NativeIndex(kernels("native"))
    for count in (0, 5):
        with pytest.raises((SpecdecError, IndexError), match=f"{count} indexes|range"):
            native_draft([index] * count, [1], WIDE, NONE)
    lost = NativeIndex(kernels("native"))
    lost.handle = None
    for call in (lambda: lost.extend([1]), lambda: lost.nbytes, lambda: native_draft([lost], [1], WIDE, NONE)):
        with pytest.raises(SpecdecError, match="no memory for an index"):
            call()


def test_an_index_is_freed_once_with_its_object() -> None:
    class Counting:
        """Hands out two addresses, and notes which come back."""

        freed: list[Any] = []  # noqa: RUF012 - of the test alone

        def suffix_new(self, handle: Any) -> None:
            cast(handle, POINTER(c_void_p))[0] = 4096 + len(self.freed)

        def suffix_free(self, handle: Any) -> None:
            self.freed.append(handle.value)

    library = Counting()
    index = NativeIndex(library)  # type: ignore[arg-type]
    gc.collect()
    assert library.freed == []
    del index
    gc.collect()
    assert library.freed == [4096]
