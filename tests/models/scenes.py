"""The ways in which an engine may come by the same logits, for tests that all of them have the same bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from specdec.models.base import CausalLM
from tests.models.bench import TREE_PARENTS, TREE_PATHS, Bench, Tapped, branches, prefixes, text

PROMPT = text(19, seed=1)
CHAIN, TREE = text(5, seed=2), text(7, seed=4)
Logits = tuple[list[list[int]], Tensor]
"""Texts, and the logits of each one's last token, [texts, vocabulary]."""


def chunks(sizes: Sequence[int]) -> Callable[[Bench], Logits]:
    def scene(bench: Bench) -> Logits:
        borders = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        assert borders[-1] == len(PROMPT)
        logits = [bench.append(0, PROMPT[a:b]) for a, b in pairwise(borders)]
        return prefixes([], PROMPT), torch.cat(logits)

    return scene


def chain(parents: Sequence[int] | None) -> Callable[[Bench], Logits]:
    def scene(bench: Bench) -> Logits:
        bench.append(0, PROMPT)
        return prefixes(PROMPT, CHAIN), bench.run(bench.part(0, CHAIN, parents))

    return scene


def tree(bench: Bench) -> Logits:
    bench.append(0, PROMPT)
    return branches(PROMPT, TREE), bench.run(bench.part(0, TREE, TREE_PARENTS))


def tree_by_levels(bench: Bench) -> Logits:
    bench.append(0, PROMPT)
    levels = [(0, 1), (1, 3), (3, 5), (5, 7)]
    logits = [bench.run(bench.part(0, TREE[first:stop], TREE_PARENTS, first)) for first, stop in levels]
    return branches(PROMPT, TREE), torch.cat(logits)


def tree_in_another_order(bench: Bench) -> Logits:
    order = [0, 2, 4, 6, 1, 3, 5]
    parents = [-1 if TREE_PARENTS[node] < 0 else order.index(TREE_PARENTS[node]) for node in order]
    bench.append(0, PROMPT)
    texts = branches(PROMPT, TREE)
    return [texts[node] for node in order], bench.run(bench.part(0, [TREE[node] for node in order], parents))


def decoding_after_a_tree(bench: Bench) -> Logits:
    tree(bench)
    bench.keep(0, TREE, TREE_PATHS[6])
    before = list(bench.texts[0])
    return prefixes(before, CHAIN), torch.cat([bench.append(0, [token]) for token in CHAIN])


def batch_of_eight(bench: Bench) -> Logits:
    """Decoding, verification of chains and trees, and prompts, all in one pass."""
    texts = [text(length, seed=10 + length) for length in (0, 18, 5, 13, 1, 9, 30, 3)]
    for seq, before in enumerate(texts):
        if before:
            bench.append(seq, before)
    late = (bench.part(0, PROMPT), bench.part(1, [7]), bench.part(2, CHAIN), bench.part(3, TREE, TREE_PARENTS))
    rest = (bench.part(4, [8]), bench.part(5, TREE, TREE_PARENTS), bench.part(6, CHAIN), bench.part(7, PROMPT))
    wanted = [
        *prefixes([], PROMPT),
        [*texts[1], 7],
        *prefixes(texts[2], CHAIN),
        *branches(texts[3], TREE),
        [*texts[4], 8],
        *branches(texts[5], TREE),
        *prefixes(texts[6], CHAIN),
        *prefixes(texts[7], PROMPT),
    ]
    return wanted, bench.run(*late, *rest)


def recompute(bench: Bench) -> Logits:
    """Preempted while others keep their blocks, then run again from the beginning in one chunk."""
    bench.append(0, PROMPT[:7])
    for token in PROMPT[7:12]:
        bench.append(0, [token])
    bench.cache.free(0)
    bench.append(1, CHAIN)
    return prefixes([], PROMPT), bench.append(0, PROMPT)


SCENES: dict[str, Callable[[Bench], Logits]] = {
    "prompt in one chunk": chunks([19]),
    "prompt in three chunks": chunks([7, 1, 11]),
    "prompt in four chunks": chunks([2, 8, 4, 5]),
    "chain": chain(None),
    "chain as a tree": chain([-1, 0, 1, 2, 3]),
    "tree": tree,
    "tree by levels": tree_by_levels,
    "tree in another order": tree_in_another_order,
    "decoding after a tree": decoding_after_a_tree,
    "batch of eight": batch_of_eight,
    "recompute": recompute,
}


class Decoded:
    """Logits by plain decoding: every token in a pass of its own."""

    def __init__(self, model: CausalLM | Tapped) -> None:
        self.model = model
        self._known: dict[tuple[int, ...], Tensor] = {}

    def last(self, texts: Sequence[Sequence[int]]) -> Tensor:
        for wanted in sorted(texts, key=len, reverse=True):
            if tuple(wanted) not in self._known:
                bench = Bench(self.model, block_size=16, num_blocks=10)
                for prefix in prefixes([], wanted):
                    self._known[tuple(prefix)] = bench.append(0, prefix[-1:])[0]
        return torch.stack([self._known[tuple(wanted)] for wanted in texts])
