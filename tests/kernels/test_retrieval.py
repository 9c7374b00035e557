"""Drafts grown from texts: the reference against a scan of all texts, the native kernel against the reference."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.errors import SpecdecError
from specdec.kernels.retrieval import Grown, Index, Limits, native_grow, reference
from specdec.stores import Store, Vocabulary
from specdec.stores.order import DEPTH
from tests.kernels.variants import every_architecture, kernels

WIDE = Limits(1, 8, 6, 12, 9, 0.0)
Path = tuple[int, ...]


def index_of(texts: Sequence[Sequence[int]], size: int = 4) -> Index:
    store = Store.of(texts, Vocabulary.of(size, None), ordered=True)
    order = store.order if store.order is not None else np.empty(0, np.uint32)
    return Index(store.tokens, order, size, DEPTH)


def followers(texts: Sequence[Sequence[int]], pattern: Sequence[int]) -> tuple[int, Counter[int]]:
    """Occurrences of a pattern, and what followed them."""
    size, total, counts = len(pattern), 0, Counter[int]()
    for text in texts:
        for at in range(len(text) - size + 1):
            if list(text[at : at + size]) == list(pattern):
                total += 1
                counts.update(text[at + size : at + size + 1])
    return total, counts


def scan(
    texts: Sequence[Sequence[int]], limits: Limits, context: Sequence[int], draft: dict[Path, float]
) -> dict[Path, tuple[float, float, int]]:
    """Every node that could be added, by its path: survival, chance, length of the match.

    Args:
        draft: survivals of the nodes that are there.
    """
    found: dict[Path, tuple[float, float, int]] = {}

    def visit(path: Path, survival: float, matched: int | None) -> None:
        if len(path) >= limits.max_depth or (matched or 0) >= DEPTH:
            return
        whole = [*context, *path]
        if matched is None:
            sizes = range(min(limits.max_match, len(whole)), limits.min_match - 1, -1)
            matched = next((size for size in sizes if followers(texts, whole[-size:])[0]), None)
            if matched is None:
                return
        total, counts = followers(texts, whole[len(whole) - matched :])
        ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        new = [pair for pair in ranked if (*path, pair[0]) not in draft]
        room = limits.branches - len(children(draft, path))
        for token, count in new[: max(0, room)]:
            chance = count / (total + len(counts) + 3.0 / matched)
            below = (*path, token)
            if survival * chance >= limits.floor:
                found[below] = survival * chance, chance, matched
                visit(below, survival * chance, matched + 1)

    for path, survival in {(): 1.0, **draft}.items():
        visit(path, survival, None)
    return found


def children(draft: dict[Path, float], path: Path) -> list[Path]:
    return [one for one in draft if one[:-1] == path]


def paths_of(tokens: Sequence[int], parents: Sequence[int]) -> list[Path]:
    paths: list[Path] = []
    for token, parent in zip(tokens, parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return paths


def same(ours: Grown, other: Grown) -> None:
    assert ours[:3] == other[:3]
    assert ours.chances == other.chances  # to the last bit: the same operations in the same order


texts_of_few = st.lists(st.lists(st.integers(0, 2), max_size=15), max_size=4)


@given(
    texts_of_few,
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.integers(1, 3),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.05, 0.2]),
    st.sampled_from([0, 3, 40]),
    st.integers(1, 3),
)
def test_a_draft_has_the_likeliest_of_all_nodes_that_a_scan_finds(
    texts: list[list[int]], context: list[int], least: int, more: int, floor: float, nodes: int, branches: int
) -> None:
    limits = Limits(least, least + more, 3, nodes, branches, floor)
    grown = reference.grow(index_of(texts), limits, context)
    there = scan(texts, limits, context, {})
    paths = paths_of(grown.tokens, grown.parents)
    assert len(set(paths)) == len(paths) == min(nodes, len(there))
    for path, matched, chance in zip(paths, grown.matches, grown.chances, strict=True):
        assert there[path][1:] == (pytest.approx(chance), matched)
    survivals = [there[path][0] for path in paths]
    assert survivals == pytest.approx(sorted((one[0] for one in there.values()), reverse=True)[:nodes])


@given(texts_of_few, st.lists(st.integers(0, 3), max_size=4), st.integers(0, 2**32))
def test_a_draft_that_is_there_gets_nodes_below_and_beside_its_own(
    texts: list[list[int]], context: list[int], seed: int
) -> None:
    draw = random.Random(seed)
    limits = Limits(1, 4, 3, 30, draw.randint(1, 3), 0.01)
    tokens, parents, chances = [], [], []
    for node in range(draw.randint(1, 5)):
        parent = draw.randint(-1, node - 1)
        if (parent, token := draw.randint(0, 3)) not in zip(parents, tokens, strict=True):
            tokens.append(token), parents.append(min(parent, len(parents) - 1)), chances.append(draw.random())
    paths, survivals = paths_of(tokens, parents), list[float]()
    for parent, chance in zip(parents, chances, strict=True):
        survivals.append(chance * (survivals[parent] if parent >= 0 else 1.0))
    if len(set(paths)) < len(paths):
        return
    grown = reference.grow(index_of(texts), limits, context, tokens, parents, chances)
    there = scan(texts, limits, context, dict(zip(paths, survivals, strict=True)))
    added = paths_of([*tokens, *grown.tokens], [*parents, *grown.parents])[len(tokens) :]
    assert len(set(added)) == len(added) == min(30, len(there))
    for path, matched, chance in zip(added, grown.matches, grown.chances, strict=True):
        assert there[path][1:] == (pytest.approx(chance), matched)


def test_a_draft_by_hand() -> None:
    texts = [[1, 2, 3], [1, 2, 3, 0], [1, 2, 0], [2, 1]]
    grown = reference.grow(index_of(texts), Limits(1, 4, 2, 9, 9, 0.0), [3, 1, 2])
    # 1 2 occurs three times, followed by 3 twice and by 0 once; 1 2 3 goes on with 0 once in two
    assert paths_of(grown.tokens, grown.parents) == [(3,), (0,), (3, 0)]
    assert grown.matches == [2, 2, 3]
    assert grown.chances == [2 / (3 + 2 + 1.5), 1 / (3 + 2 + 1.5), 1 / (2 + 1 + 1)]


def test_no_frequent_follower_of_a_large_range_is_missed() -> None:
    """Of ranges that are looked at in places, every follower that makes up its share is found and counted exactly."""
    draw = random.Random(0)
    counts = Counter({token: draw.choice([1, 1, 2, 30, 70, 400]) for token in range(1, 120)})
    texts = [[0, token] for token, count in counts.items() for _ in range(count)]
    grown = reference.grow(index_of(texts, 200), Limits(1, 4, 1, 200, 200, 0.0), [0])
    found = dict(zip(grown.tokens, grown.chances, strict=True))
    share = len(texts) // reference.PROBES
    assert {token for token, count in counts.items() if count >= share} <= found.keys()
    spread = len(texts) + len(found) + 3
    assert all(chance == counts[token] / spread for token, chance in found.items())
    assert grown.chances == sorted(grown.chances, reverse=True)


@every_architecture
@pytest.mark.parametrize("size", [6, 70_000])
def test_the_kernel_does_what_the_reference_does(architecture: str, size: int) -> None:
    draw, library = random.Random(size), kernels(architecture)
    for trial in range(120):
        tokens = [draw.randrange(draw.choice([2, 6])) * (size // 6) for _ in range(draw.choice([0, 5, 400]))]
        index = index_of([tokens[at : at + 50] for at in range(0, len(tokens), 50)], size)
        sizes = [draw.randint(*span) for span in ((1, 3), (3, 20), (1, 40), (0, 30), (1, 5))]
        limits = Limits(*sizes, 0.001)
        context = [draw.randrange(6) * (size // 6) for _ in range(draw.randint(0, 9))]
        parents = [draw.randint(-1, node - 1) for node in range(draw.choice([0, 0, 4]))]
        given = [draw.randrange(6) * (size // 6) for _ in parents], parents, [draw.random() for _ in parents]
        ours = native_grow(library, index, limits, context, *given)
        same(ours, reference.grow(index, limits, context, *given))
        assert trial or len(ours.tokens) <= limits.max_nodes


def test_a_store_that_changed_behind_the_checks_is_refused_or_drafts_nonsense() -> None:
    """Every position that is read is checked: no address comes from the file."""
    library, draw = kernels("native"), random.Random(0)
    sound = index_of([[draw.randrange(4) for _ in range(40)] for _ in range(5)])
    refusals = 0
    for _ in range(300):
        order, tokens = sound.order.copy(), sound.tokens.copy()
        for _ in range(draw.randint(1, 20)):
            order[draw.randrange(len(order))] = draw.choice([0, 1, len(order) - 1, len(order), 2**31, 2**32 - 1])
            tokens[draw.randrange(len(tokens))] = draw.randrange(2**16)
        try:
            grown = native_grow(library, Index(tokens, order, 4, DEPTH), WIDE, [1, 2, 3])
        except SpecdecError:
            refusals += 1
        else:
            assert all(0 <= token < 4 for token in grown.tokens)
    assert 0 < refusals < 300


@pytest.mark.parametrize(
    ("limits", "parents", "message"),
    [
        (Limits(0, 4, 4, 4, 4, 0.1), [], "min_match = 0"),
        (Limits(1, 1025, 4, 4, 4, 0.1), [], "max_match = 1025"),
        (Limits(1, 4, 4, 4097, 4, 0.1), [], "max_nodes = 4097"),
        (Limits(1, 4, 4, 4, 0, 0.1), [], "branches = 0"),
        (WIDE, [0], "node 0 has parent 0"),
        (WIDE, [-1, -2], "node 1 has parent -2"),
        (WIDE, [2**40], "node 0 has parent"),
    ],
)
def test_what_does_not_fit_is_refused(limits: Limits, parents: list[int], message: str) -> None:
    given = [1] * len(parents), parents, [0.5] * len(parents)
    with pytest.raises(SpecdecError, match=message):
        native_grow(kernels("native"), index_of([[1, 2, 3]]), limits, [1], *given)


def test_a_position_beyond_the_texts_is_named() -> None:
    index = index_of([[1, 2, 3]])
    with pytest.raises(SpecdecError, match="position 2 of the order is 4, outside of 0 to 3"):
        native_grow(kernels("native"), Index(index.tokens, np.full(4, 4, np.uint32), 4, DEPTH), WIDE, [1])
