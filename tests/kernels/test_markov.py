"""Trees from a block of logits: native code and plain torch against all trees there could be, in float64."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from specdec.errors import SpecdecError
from specdec.kernels.cpu.library import Library
from specdec.kernels.markov import Grown, MarkovTerm
from tests.kernels.variants import ARCHITECTURES, kernels, marked, threads

EXACT = 3e-6
"""Relative: exponentials to 2 ulp and sums of some hundred float32 numbers."""


class Block:
    """Random logits of one block, and what the token before adds to them."""

    def __init__(self, seed: int, vocab: int, rows: int = 4, rank: int = 5, sure: bool = False) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(rows, vocab, generator=draw) * 2
        self.odds = None if sure else torch.randn(rows, generator=draw) + 1
        self.before, self.after = (torch.randn(vocab + extra, rank, generator=draw) for extra in (1, 0))
        self.weights = None if sure else torch.randn(rank, generator=draw)
        self.anchor = int(torch.randint(vocab + 1, (), generator=draw))
        if not rank:
            self.before = self.after = self.weights = None  # type: ignore[assignment]

    def term(self, library: Library | None, kind: str = "float32") -> MarkovTerm:
        return MarkovTerm(self.logits.shape[1], self.before, self.after, self.weights, kind, library)

    def grow(self, library: Library | None, nodes: int, floor: float = 0.0) -> Grown:
        [grown] = self.term(library).grow(self.logits, self.odds, [len(self.logits)], [self.anchor], nodes, floor)
        return grown

    def chances(self, depth: int, previous: int) -> Tensor:
        """float64 [Vd], of the tokens at a depth: confidence · softmax, from the formulas."""
        row, odds = self.logits[depth].double(), 0.0
        if self.before is not None:
            row = row + self.after.double() @ self.before[previous].double()
        if self.odds is None:
            return row.softmax(0)
        odds = float(self.odds[depth].double())
        if self.weights is not None:
            odds += float(self.weights.double() @ self.before[previous].double())
        return row.softmax(0) / (1 + math.exp(-odds))

    def values(self) -> dict[tuple[int, ...], float]:
        """Every path → its value."""
        values = {(): 1.0}
        for depth in range(len(self.logits)):
            for path in [path for path in values if len(path) == depth]:
                law = self.chances(depth, path[-1] if path else self.anchor).tolist()
                values |= {(*path, token): values[path] * chance for token, chance in enumerate(law)}
        del values[()]
        return values


def paths(grown: Grown) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    for token, parent in zip(grown.tokens, grown.parents, strict=True):
        found.append((*(found[parent] if parent >= 0 else ()), token))
    return found


NATIVE = [pytest.param(name, marks=marked(name)) for name in ARCHITECTURES]
LIBRARIES = ["torch", *NATIVE]


def library(name: str) -> Library | None:
    return None if name == "torch" else kernels(name)


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("seed", range(6))
def test_a_tree_holds_the_paths_of_largest_value_best_first(seed: int, name: str) -> None:
    """Of all there are; each has the chance that the formulas give."""
    block = Block(seed, vocab=7, rows=1 + seed % 4, rank=(0, 5)[seed > 1], sure=seed % 3 == 2)
    values = block.values()
    ranked = sorted(values, key=lambda path: -values[path])
    for nodes in (1, 2, 6, 20):
        grown = block.grow(library(name), nodes)
        assert paths(grown) == ranked[:nodes]
        for path, chance in zip(paths(grown), grown.chances, strict=True):
            above = values[path[:-1]] if len(path) > 1 else 1.0
            assert chance == pytest.approx(values[path] / above, rel=EXACT)


@pytest.mark.parametrize("name", LIBRARIES)
def test_nothing_below_the_floor_is_a_node(name: str) -> None:
    block = Block(3, vocab=9)
    values = sorted(block.values().values(), reverse=True)
    assert len(block.grow(library(name), 100, (values[4] + values[5]) / 2).tokens) == 5
    assert block.grow(library(name), 100, 1.0) == Grown([], [], [])


@pytest.mark.parametrize("name", LIBRARIES)
def test_all_paths_are_nodes_if_there_is_room(name: str) -> None:
    block = Block(5, vocab=3, rows=3)
    assert sorted(paths(block.grow(library(name), 100))) == sorted(
        path for length in (1, 2, 3) for path in product(range(3), repeat=length)
    )


@pytest.mark.parametrize("name", NATIVE)
@pytest.mark.parametrize("vocab", [1, 31, 33, 260])
def test_native_trees_are_those_of_torch(vocab: int, name: str) -> None:
    """Sizes around the width of a panel and of a vector, blocks of a batch, on any number of threads."""
    blocks = [Block(seed, vocab, rows=1 + seed) for seed in range(4)]
    logits, odds = (torch.cat(column) for column in zip(*((b.logits, b.odds) for b in blocks), strict=True))  # type: ignore[arg-type]
    rows, anchors = [len(block.logits) for block in blocks], [min(block.anchor, vocab) for block in blocks]
    wanted, term = blocks[0].term(None).grow(logits, odds, rows, anchors, 9), blocks[0].term(kernels(name))
    for number in (1, 3):
        with threads(number):
            for got, want in zip(term.grow(logits, odds, rows, anchors, 9), wanted, strict=True):
                assert got[:2] == want[:2]
                assert got.chances == pytest.approx(want.chances, rel=EXACT)


@pytest.mark.parametrize("name", LIBRARIES)
def test_logits_that_are_no_numbers_give_no_nodes(name: str) -> None:
    block = Block(0, vocab=8)
    block.logits[0, 3] = math.nan
    assert block.grow(library(name), 4).tokens == []
    block = Block(0, vocab=8)
    block.logits[1] = math.nan
    assert set(block.grow(library(name), 4).parents) == {-1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"anchors": [9]}, "anchor 0 is 9, outside of 0 to 8"),
        ({"anchors": [-1]}, "anchor 0 is -1"),
        ({"anchors": [2**62]}, "outside of 0 to 8"),
        ({"rows": [5]}, "Blocks of 5 rows"),
        ({"nodes": 0}, "nodes = 0"),
        ({"confidences": torch.zeros(3)}, r"\[4\]"),
        ({"logits": torch.zeros(4, 8).double()}, "float32"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    block = Block(2, vocab=8)
    options: dict[str, object] = {"logits": block.logits, "confidences": block.odds, "rows": [4], "anchors": [8]}
    with pytest.raises(SpecdecError, match=words):
        block.term(kernels("native")).grow(**(options | {"nodes": 4} | changes))  # type: ignore[arg-type]
