"""Verdicts in Triton are those of the rules; random words are the same; filters keep the same tokens; broken copies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from specdec.errors import ConfigError
from specdec.kernels.commit import reference as commit_reference
from specdec.kernels.commit import triton as commit
from specdec.kernels.filters import reference as filters_reference
from specdec.kernels.filters import triton as filters
from specdec.kernels.verdicts import triton as shipped
from specdec.randomness import RandomSource, Stream
from specdec.registry import RULES
from specdec.verify.base import StepKey, Verdict
from specdec.verify.tree import ROOT, DraftTree
from tests.kernels.gpu import DEVICE, Check, assert_caught, poisoned

pytestmark = pytest.mark.fewer(3)

V, BLOCK = 41, 16
SEEDS = [0, 1, 2**32 + 5, 2**64 - 1]


@triton.jit
def noise_kernel(out, seed, position, N: tl.constexpr):
    tl.store(out + tl.arange(0, 4 * N), shipped._gumbel(seed, position, tl.arange(0, N)))


@triton.jit
def uniform_kernel(out, seed, position, anchor, lane):
    i = tl.arange(0, 1)
    zero = tl.zeros_like(i)
    for stream in tl.static_range(4):
        tl.store(out + stream + i, shipped._uniform(seed, stream, zero + position, zero + anchor, zero + lane))


def signed(seed: int) -> int:
    return seed - 2**64 if seed >= 2**63 else seed


@pytest.mark.parametrize("seed", SEEDS)
def test_uniforms_are_those_of_the_source_to_the_bit(seed: int) -> None:
    out = torch.zeros(4, dtype=torch.float64, device=DEVICE)
    for position, anchor, lane in ((0, 0, 0), (7, 5, 2), (10**6, 10**6 - 3, 31)):
        uniform_kernel[(1,)](out, signed(seed), position, anchor, lane)
        want = [RandomSource(seed).uniform(Stream(s), position, anchor, lane) for s in range(4)]
        assert out.tolist() == want


@pytest.mark.parametrize("seed", SEEDS)
def test_gumbel_noise_is_that_of_the_source(seed: int) -> None:
    """The words are the same; logarithms of another library may differ in their last bits."""
    out = torch.zeros(64, dtype=torch.float64, device=DEVICE)
    noise_kernel[(1,)](out, signed(seed), 12, N=16)
    torch.testing.assert_close(out.cpu(), RandomSource(seed).gumbel(12, 64), rtol=1e-14, atol=1e-14)


def drawn(seed: int, counts: Sequence[int], with_q: bool, rule: str, trees: bool = False) -> tuple[Tensor, Tensor | None, list[DraftTree]]:  # fmt: skip
    """Logits of ragged drafts whose tokens are likely to be accepted now and then."""
    generator = torch.Generator().manual_seed(seed)
    nodes = sum(counts)
    p = 2 * torch.randn(nodes + len(counts), V, generator=generator)
    q = 2 * torch.randn(nodes, V, generator=generator)
    result, at, row = [], 0, 0
    for count in counts:
        if with_q:
            p[row : row + count] = 0.5 * p[row : row + count] + q[at : at + count]
        else:
            p[row : row + count] *= 2.0
        tokens = [
            int((q if i % 2 and with_q else p)[(at if i % 2 and with_q else row) + i].argmax()) for i in range(count)
        ]
        parents = list(range(-1, count - 1))
        if trees:
            parents = [int(torch.randint(-1, i, (1,), generator=generator)) if i else ROOT for i in range(count)]
            tokens = [int(torch.randint(0, 3, (1,), generator=generator)) for _ in range(count)]
            p[row : row + count + 1, :3] += 6.0
        distribution = torch.softmax(q[at : at + count], -1) if with_q else None
        result.append(DraftTree(tuple(tokens), tuple(parents), distribution if count else None))
        at, row = at + count, row + count + 1
    return p, q if with_q else None, result


def expected(rule: str, p: Tensor, trees: Sequence[DraftTree], keys: Sequence[StepKey]) -> list[Verdict]:
    scores = list(torch.split(p, [len(tree) + 1 for tree in trees]))
    return RULES.create(rule).accept(trees, scores, keys)


def judged(ops: ModuleType, rule: str, p: Tensor, q: Tensor | None, trees: Sequence[DraftTree], keys: Sequence[StepKey], temperature: float = 1.0) -> list[Verdict]:  # fmt: skip
    drafts = ops.Drafts(
        tokens=[token for tree in trees for token in tree.tokens],
        parents=[parent for tree in trees for parent in tree.parents],
        counts=[len(tree) for tree in trees],
        sources=[key.random for key in keys],
        anchors=[key.anchor for key in keys],
        temperatures=[temperature] * len(trees),
        depths=[len(tree.prefix(node)) - 1 for tree in trees for node in range(len(tree))],
    )
    with poisoned():
        verdicts = ops.judge(rule, p.to(DEVICE), drafts, None if q is None else q.to(DEVICE), block=BLOCK)
    result, start = [], 0
    for tree, length, token in zip(trees, verdicts.lengths.tolist(), verdicts.next_tokens.tolist(), strict=True):
        result.append(Verdict(tuple(verdicts.path[start : start + length].tolist()), token))
        start += len(tree)
    return result


def keys_of(seed: int, number: int) -> list[StepKey]:
    return [StepKey(RandomSource(SEEDS[i % 4] ^ seed), anchor=3 + i) for i in range(number)]


CASES = [("greedy", False), ("gumbel", False), ("token", False), ("token", True), ("block", False), ("block", True)]
COUNTS = [3, 0, 1, 4]


def check_rule(
    rule: str,
    with_q: bool,
    ops: ModuleType = shipped,
    seeds: Sequence[int] = range(6),
    counts: Sequence[int] = COUNTS,
    branching: bool = False,
) -> None:
    """Verdicts equal the rule's own, and vary, over drafts of several lengths."""
    lengths = set()
    for seed in seeds:
        p, q, trees = drawn(seed, counts, with_q, rule, trees=branching)
        keys = keys_of(seed, len(trees))
        want = expected(rule, p, trees, keys)
        assert judged(ops, rule, p, q, trees, keys) == want
        lengths |= {len(verdict.path) for verdict in want}
    assert len(lengths) >= 3


@pytest.mark.parametrize(("rule", "with_q"), CASES)
def test_verdicts_are_those_of_the_rule(rule: str, with_q: bool) -> None:
    check_rule(rule, with_q)


@pytest.mark.parametrize("rule", ["greedy", pytest.param("gumbel", marks=pytest.mark.slow)])
def test_trees_are_walked_as_the_rule_walks_them(rule: str) -> None:
    check_rule(rule, False, counts=[5, 7, 6, 0], branching=True)


@pytest.mark.parametrize(("rule", "with_q"), CASES)
def test_temperature_is_applied_to_both_sides(rule: str, with_q: bool) -> None:
    p, q, trees = drawn(9, COUNTS, with_q, rule)
    keys = keys_of(9, len(trees))
    colder = [
        DraftTree(t.tokens, t.parents, None if t.q is None else torch.softmax(t.q.log() / 0.7, -1)) for t in trees
    ]
    assert judged(shipped, rule, p, q, trees, keys, 0.7) == expected(rule, p / 0.7, colder, keys)


def test_verdicts_do_not_depend_on_the_batch() -> None:
    p, q, trees = drawn(3, COUNTS, True, "block")
    keys = keys_of(3, len(trees))
    together = judged(shipped, "block", p, q, trees, keys)
    row = node = 0
    for tree, key, verdict in zip(trees, keys, together, strict=True):
        n = len(tree)
        assert q is not None
        assert judged(shipped, "block", p[row : row + n + 1], q[node : node + n], [tree], [key]) == [verdict]
        row, node = row + n + 1, node + n


def test_a_distribution_that_equals_its_draft_is_accepted_whole() -> None:
    p, q, trees = drawn(1, [4], True, "token")
    assert q is not None
    p[:4] = q
    for rule in ("token", "block"):
        [verdict] = judged(shipped, rule, p, q, trees, keys_of(1, 1))
        assert verdict.path == (0, 1, 2, 3)


def test_nan_and_unknown_rules_are_noticed() -> None:
    p, _, trees = drawn(1, [1], False, "greedy")
    p[1, 7] = math.nan
    [tree] = trees
    drafts = shipped.Drafts(tree.tokens, tree.parents, [1], [RandomSource(0)], [3], [1.0], [0])
    assert shipped.judge("greedy", p.to(DEVICE), drafts, block=BLOCK).largest.isfinite().tolist() == [True, False]
    with pytest.raises(ConfigError, match="'typical' has no GPU kernel"):
        shipped.judge("typical", p, drafts)
    with pytest.raises(ConfigError, match="need 2 rows, got 1"):
        shipped.judge("greedy", p[:1], drafts)


FILTERS = [{"top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}, {"top_k": 9, "top_p": 0.6}, {"top_p": 0.9, "min_p": 0.05}, {},
           {"top_k": 1}, {"top_k": V + 3}, {"top_p": 0.01}]  # fmt: skip


def check_filters(ops: ModuleType = filters, chosen: Sequence[dict[str, float]] = FILTERS, ties: bool = False) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, V, generator=generator)
    logits[0] = logits[0].round() if ties else logits[0]
    logits[1, 3] = -math.inf
    for settings_ in chosen:
        rows = {name + "s": [value] * 2 for name, value in settings_.items()}
        want = filters_reference.filtered(logits, [0.7] * 2, **rows)  # type: ignore[arg-type]
        with poisoned():
            got = ops.filtered(logits.to(DEVICE), [0.7] * 2, **rows, block=BLOCK).cpu()
        assert torch.equal(got, want), settings_


def test_filters_keep_what_the_reference_keeps() -> None:
    check_filters()


def test_filters_break_ties_as_the_reference_does() -> None:
    check_filters(chosen=[{"top_k": 5}, {"top_p": 0.8}, {"top_k": 7, "top_p": 0.9}], ties=True)


@given(st.data())
@settings(max_examples=10)
def test_any_draft_is_judged_as_the_rule_judges_it(data: st.DataObject) -> None:
    rule, with_q = data.draw(st.sampled_from(CASES))
    counts = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    seed = data.draw(st.integers(10, 10**6))
    p, q, trees = drawn(seed, counts, with_q and sum(counts) > 0, rule)
    keys = keys_of(seed, len(trees))
    assert judged(shipped, rule, p, q, trees, keys) == expected(rule, p, trees, keys)


def check_commit(ops: ModuleType = commit, dtype: torch.dtype = torch.float32) -> None:
    """As the reference moves them."""
    caches = [torch.randn(20, 3, 5, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(3)]
    caches += [torch.randn(20, 3, generator=torch.Generator().manual_seed(9))]
    paths = [([4, 7, 9], [2, 4, 7]), ([], []), ([15, 1], [11, 15])]  # places overlap as they do in a tree
    want = [cache.clone() for cache in caches]
    commit_reference.commit_paths(want, paths)
    held = [cache.to(DEVICE) for cache in caches]
    ops.commit_paths(held, paths)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(held, want, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_path_moves_together(dtype: torch.dtype) -> None:
    check_commit(dtype=dtype)


def test_nothing_to_move_launches_nothing() -> None:
    cache = torch.ones(4, 2, device=DEVICE)
    commit.commit_paths([cache], [([], [])])
    commit.commit_paths([], [([1], [0])])
    assert cache.eq(1).all()


def test_a_cache_that_is_not_dense_is_refused() -> None:
    with pytest.raises(ConfigError, match="turn heads_first off"):
        commit.commit_paths([torch.ones(2, 4, 3, device=DEVICE).transpose(0, 1)], [([1], [0])])


def test_rows_may_have_settings_of_their_own() -> None:
    logits = torch.randn(4, V, generator=torch.Generator().manual_seed(5))
    settings_ = [0.7, 1.0, 1.3, 0.2], [5, 0, 3, 0], [1.0, 0.8, 0.5, 1.0], [0.0, 0.0, 0.1, 0.3]
    want = filters_reference.filtered(logits, *settings_)
    assert torch.equal(filters.filtered(logits.to(DEVICE), *settings_, block=BLOCK).cpu(), want)


def rule(name: str, with_q: bool) -> Check:
    return lambda ops: check_rule(name, with_q, ops, range(12))


BROKEN: dict[str, tuple[ModuleType, Check, Sequence[tuple[str, str]]]] = {
    "residual without subtracting q": (shipped, rule("token", True), [("tl.where(subtracts, tl.maximum(rest - q, 0.0), rest)", "rest")]),
    "a refused deterministic token may come again": (shipped, rule("token", False), [("tl.where(subtracts & (token == drafted), 0.0, rest)", "rest")]),
    "one uniform for all positions": (shipped, rule("token", True), [("u = _uniform(seed, ACCEPT, anchor + i, anchor, tl.zeros_like(anchor) + i)", "u = _uniform(seed, ACCEPT, anchor, anchor, tl.zeros_like(anchor))")]),
    "bonus token with the residual's number": (shipped, rule("token", False), [("tl.where(refused, residual, bonus), mass", "residual, mass")]),
    "bonus token from the row before": (shipped, rule("token", False), [("row, node_row = first_row + length, first_node + place", "row, node_row = first_row + tl.maximum(length - 1, 0), first_node + place")]),
    "block draws after a prefix without its weight": (shipped, rule("block", True), [("                        weight = before", "                        weight = one")]),
    "block keeps the first prefix that passes": (shipped, rule("block", True), [("                i = count - down", "                i = tl.where(down == count, 0, down + 1)")]),
    "block weights that are not capped": (shipped, rule("block", True), [("before = tl.minimum(1.0, before * (p / q))", "before = before * (p / q)")]),
    "noise of the next position": (shipped, rule("gumbel", False), [("lanes = start // 4 + tl.arange(0, BLOCK // 4)\n            with_noise = score.to(tl.float64) + _gumbel(seed, position, lanes)", "lanes = start // 4 + tl.arange(0, BLOCK // 4)\n            with_noise = score.to(tl.float64) + _gumbel(seed, position + 1, lanes)")]),
    "words in another order": (shipped, rule("gumbel", False), [("tl.interleave(tl.interleave(a, c), tl.interleave(b, d))", "tl.interleave(tl.interleave(a, b), tl.interleave(c, d))")]),
    "the first block alone is searched": (shipped, rule("greedy", False), [("better = largest > best_score", "better = (largest > best_score) & (tl.min(token, 0) == 0)")]),
    "top-k keeps one too few": (filters, lambda ops: check_filters(ops, [{"top_k": 5}]), [("low_k, high_k = tl.where(count >= k, middle, low_k)", "low_k, high_k = tl.where(count >= k - 1, middle, low_k)")]),
    "all ties are kept": (filters, lambda ops: check_filters(ops, [{"top_p": p / 20} for p in range(10, 20)], ties=True), [("ties = tl.ceil((top_p * total - above) / tl.where(equal > 0, equal, 1.0)).to(tl.int32)", "ties = tl.full([], 2147483647, tl.int32)")]),
    "a path moves from its end": (commit, check_commit, [("    for move in range(tl.load(starts + sequence), tl.load(starts + sequence + 1)):", "    for back in range(0, tl.load(starts + sequence + 1) - tl.load(starts + sequence)):\n        move = tl.load(starts + sequence + 1) - 1 - back")]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_caught(name: str, tmp_path: Path) -> None:
    module, check_it, changes = BROKEN[name]
    assert_caught(module, check_it, changes, tmp_path)
