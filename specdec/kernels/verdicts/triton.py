"""Verdicts on the GPU for the rules `greedy`, `gumbel`, `token` and `block`, for a ragged batch in two launches.

The first walks the vocabulary once per row and keeps what a verdict needs of it: the largest score, the log-sum-exp,
the argmax, the argmax under Gumbel noise. The second gives one program to each sequence, which judges its draft and
reads again the rows from which the next token may be drawn. Random numbers are those of `specdec.randomness`:
Philox-4x32-10 under the same counters, the same words. Sums run in float64 in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from specdec.errors import ConfigError
from specdec.kernels.device import upload
from specdec.kernels.verdicts import RULES
from specdec.randomness import RandomSource, Stream

ACCEPT = tl.constexpr(int(Stream.ACCEPT))
RESIDUAL = tl.constexpr(int(Stream.RESIDUAL))
BONUS = tl.constexpr(int(Stream.BONUS))
GUMBEL = tl.constexpr(int(Stream.GUMBEL))
GREEDY_RULE, GUMBEL_RULE, TOKEN_RULE, BLOCK_RULE = (tl.constexpr(number) for number in RULES.values())
BLOCK = 1024


@triton.jit
def _unit(word):
    """A word as a uniform in (0, 1), float64."""
    return (word.to(tl.float64) + 0.5) / 4294967296.0


@triton.jit
def _uniform(seed, stream: tl.constexpr, position, anchor, lane):
    """`RandomSource.uniform`."""
    word, _, _, _ = tl.philox(seed, position, anchor, tl.zeros_like(position) + stream, lane)
    return _unit(word)


@triton.jit
def _gumbel(seed, position, lanes):
    """`RandomSource.gumbel` of the four tokens of each lane, one after the other, float64 [4 · lanes]."""
    zero = tl.zeros_like(lanes)
    a, b, c, d = tl.philox(seed, zero + position, zero, zero + GUMBEL, lanes)
    words = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    return -tl.log(-tl.log(_unit(words)))


@triton.jit
def _first_largest(score, token, best_score, best, V):
    """The better of what was found before and a block's first largest score; a NaN counts as the largest."""
    score = tl.where(score == score, score, float("inf"))
    largest = tl.max(score, 0)
    place = tl.min(tl.where(score == largest, token, V), 0)
    better = largest > best_score
    return tl.where(better, largest, best_score), tl.where(better, place, best)


@triton.jit
def stats_kernel(logits, temperatures, seeds, positions, row_stride, V, log_sums, largest, best,
                 BLOCK: tl.constexpr, NOISY: tl.constexpr, SUMS: tl.constexpr):  # fmt: skip
    """One row: log-sum-exp of its scores if SUMS, its largest score, and its argmax, under Gumbel noise if NOISY."""
    row = tl.program_id(0)
    temperature = tl.load(temperatures + row)
    seed, position = tl.load(seeds + row), tl.load(positions + row)
    top, total = tl.full([], -float("inf"), tl.float32), tl.zeros([], tl.float64)
    noisy = tl.full([], -float("inf"), tl.float64)
    token_of_top, token_of_noisy = tl.zeros([], tl.int32), tl.zeros([], tl.int32)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        score = tl.load(logits + row.to(tl.int64) * row_stride + token, mask=token < V, other=-float("inf"))
        score = tl.div_rn(score.to(tl.float32), temperature)  # as on the host, to the bit
        before = top
        top, token_of_top = _first_largest(score, token, top, token_of_top, V)
        if SUMS:
            floor = tl.where(top > -float("inf"), top, 0.0)
            shrink = tl.where(before > -float("inf"), tl.exp((before - floor).to(tl.float64)), 0.0)
            total = total * shrink + tl.sum(tl.exp((score - floor).to(tl.float64)), 0)
        if NOISY:
            lanes = start // 4 + tl.arange(0, BLOCK // 4)
            with_noise = score.to(tl.float64) + _gumbel(seed, position, lanes)
            noisy, token_of_noisy = _first_largest(with_noise, token, noisy, token_of_noisy, V)
    tl.store(largest + row, top)
    tl.store(best + row, token_of_noisy if NOISY else token_of_top)
    if SUMS:
        tl.store(log_sums + row, top.to(tl.float64) + tl.log(total))


@triton.jit
def _probability(logits, row, stride, token, temperature, log_sums, there, row_there):
    """Probabilities of some tokens of one row, float64. Nothing is read where `there`, or `row_there`, is false."""
    score = tl.load(logits + row.to(tl.int64) * stride + token, mask=there, other=-float("inf")).to(tl.float32)
    score = (score.to(tl.float64) / temperature.to(tl.float64)).to(tl.float32)  # rounded as on the host
    return tl.exp(score.to(tl.float64) - tl.load(log_sums + row, mask=row_there, other=0.0))


@triton.jit
def _drafted(p_logits, q_logits, first_row, first_node, i, p_stride, q_stride, tokens, temperature, p_sums, q_sums,
             HAS_Q: tl.constexpr):  # fmt: skip
    """p and q of a chain's i-th draft token; q is 1 for a deterministic draft."""
    x = tl.load(tokens + first_node + i)
    p = _probability(p_logits, first_row + i, p_stride, x, temperature, p_sums, True, True)
    q = tl.full([], 1.0, tl.float64)
    if HAS_Q:
        q = _probability(q_logits, first_node + i, q_stride, x, temperature, q_sums, True, True)
    return p, q


@triton.jit
def _rest(p_logits, q_logits, p_row, q_row, p_stride, q_stride, token, there, temperature, p_sums, q_sums, weight,
          drafted, subtracts, HAS_Q: tl.constexpr):  # fmt: skip
    """weight · p, or (weight · p - q)+ where q is to be subtracted; without q it is one at `drafted`."""
    rest = weight * _probability(p_logits, p_row, p_stride, token, temperature, p_sums, there, True)
    if HAS_Q:
        q = _probability(q_logits, q_row, q_stride, token, temperature, q_sums, there & subtracts, subtracts)
        rest = tl.where(subtracts, tl.maximum(rest - q, 0.0), rest)
    else:
        rest = tl.where(subtracts & (token == drafted), 0.0, rest)
    return tl.where(there, rest, 0.0)


@triton.jit
def _mass(p_logits, q_logits, p_row, q_row, p_stride, q_stride, temperature, p_sums, q_sums, weight, drafted, subtracts,
          V, BLOCK: tl.constexpr, HAS_Q: tl.constexpr):  # fmt: skip
    """Σ of `_rest` over the vocabulary."""
    mass = tl.zeros([], tl.float64)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        mass += tl.sum(_rest(p_logits, q_logits, p_row, q_row, p_stride, q_stride, token, token < V, temperature,
                             p_sums, q_sums, weight, drafted, subtracts, HAS_Q), 0)  # fmt: skip
    return mass


@triton.jit
def _sample(p_logits, q_logits, p_row, q_row, p_stride, q_stride, temperature, p_sums, q_sums, weight, drafted,
            subtracts, u, mass, V, BLOCK: tl.constexpr, HAS_Q: tl.constexpr):  # fmt: skip
    """The first token at which the sum of `_rest` so far exceeds u · mass."""
    point, before, found = u * mass, tl.zeros([], tl.float64), tl.zeros([], tl.int32) + V
    last_with_mass = tl.zeros([], tl.int32)
    for start in range(0, V, BLOCK):
        token = start + tl.arange(0, BLOCK)
        rest = _rest(p_logits, q_logits, p_row, q_row, p_stride, q_stride, token, token < V, temperature, p_sums,
                     q_sums, weight, drafted, subtracts, HAS_Q)  # fmt: skip
        reached = before + tl.cumsum(rest, 0)
        found = tl.minimum(found, tl.min(tl.where((reached > point) & (rest > 0), token, V), 0))
        last_with_mass = tl.maximum(last_with_mass, tl.max(tl.where(rest > 0, token, 0), 0))
        before += tl.sum(rest, 0)
    return tl.where(found < V, found, last_with_mass)  # rounding may leave the sum below the point


@triton.jit
def verdict_kernel(p_logits, q_logits, p_sums, q_sums, best, row_starts, node_starts, tokens, parents, temperatures,
                   seeds, anchors, p_stride, q_stride, V, path, lengths, next_tokens,
                   RULE: tl.constexpr, BLOCK: tl.constexpr, HAS_Q: tl.constexpr):  # fmt: skip
    """One sequence: which nodes of its draft are kept, and the token after them.

    Sequence s has the rows from row_starts[s] on and the nodes node_starts[s] .. node_starts[s + 1], one row more than
    nodes. `path` is written at the nodes' places: the kept nodes, in order.
    """
    sequence = tl.program_id(0)
    first_row = tl.load(row_starts + sequence)
    first_node = tl.load(node_starts + sequence)
    count = tl.load(node_starts + sequence + 1) - first_node
    length = tl.zeros([], tl.int32)
    if RULE <= GUMBEL_RULE:  # greedy or gumbel
        node = tl.full([], -1, tl.int32)
        emitted = tl.load(best + first_row)
        for candidate in range(count):
            parent, token = tl.load(parents + first_node + candidate), tl.load(tokens + first_node + candidate)
            agrees = (parent == node) & (token == emitted)
            tl.store(path + first_node + length, tl.zeros([], tl.int32) + candidate, mask=agrees)
            length += agrees.to(tl.int32)
            node = tl.where(agrees, candidate, node)
            emitted = tl.where(agrees, tl.load(best + first_row + candidate + 1), emitted)
        tl.store(next_tokens + sequence, emitted)
    else:
        seed, anchor = tl.load(seeds + first_row), tl.load(anchors + sequence)
        temperature = tl.load(temperatures + first_row)
        one = tl.full([], 1.0, tl.float64)
        weight = one  # of the next token's p before q is subtracted
        if RULE == TOKEN_RULE:
            going = count > 0
            for i in range(count):
                p, q = _drafted(p_logits, q_logits, first_row, first_node, i, p_stride, q_stride, tokens,
                                temperature, p_sums, q_sums, HAS_Q)  # fmt: skip
                u = _uniform(seed, ACCEPT, anchor + i, anchor, tl.zeros_like(anchor) + i)
                going = going & (u * q < p)
                length += going.to(tl.int32)
        else:
            open_still = tl.full([], 1, tl.int32)
            for down in range(count + 1):
                i = count - down
                if open_still == 1:
                    before = one
                    for j in range(i):  # the weight of the first i tokens
                        p, q = _drafted(p_logits, q_logits, first_row, first_node, j, p_stride, q_stride, tokens,
                                        temperature, p_sums, q_sums, HAS_Q)  # fmt: skip
                        before = tl.minimum(1.0, before * (p / q))
                    passes = before
                    if i < count:
                        drafted = tl.load(tokens + first_node + i)
                        mass = _mass(p_logits, q_logits, first_row + i, first_node + i, p_stride, q_stride, temperature,
                                     p_sums, q_sums, before, drafted, i < count, V, BLOCK, HAS_Q)  # fmt: skip
                        bottom = mass + 1.0 - before
                        passes = tl.where(bottom > 0.0, mass / tl.where(bottom > 0.0, bottom, 1.0), 1.0)
                    place = tl.maximum(i - 1, 0)
                    u = _uniform(seed, ACCEPT, anchor + place, anchor, tl.zeros_like(anchor) + place)
                    if (i == 0) | (u < passes):
                        open_still = tl.zeros([], tl.int32)
                        length = tl.zeros([], tl.int32) + i
                        weight = before
        for i in range(length):
            tl.store(path + first_node + i, tl.zeros([], tl.int32) + i)
        refused = length < count  # then there is a token, and a row of q, to subtract
        place = tl.minimum(length, tl.maximum(count - 1, 0))
        drafted = tl.load(tokens + first_node + place, mask=refused, other=-1)
        row, node_row = first_row + length, first_node + place
        weight = tl.where(refused, weight, one)
        mass = _mass(p_logits, q_logits, row, node_row, p_stride, q_stride, temperature, p_sums, q_sums, weight,
                     drafted, refused, V, BLOCK, HAS_Q)  # fmt: skip
        # Only rounding can refuse a draft token and leave nothing to draw instead: then p itself is drawn from.
        subtracts = refused & (mass > 0)
        weight = tl.where(mass > 0, weight, one)
        mass = tl.where(mass > 0, mass, one)
        residual = _uniform(seed, RESIDUAL, anchor + length, anchor, tl.zeros_like(anchor))
        bonus = _uniform(seed, BONUS, anchor + length, anchor, tl.zeros_like(anchor))
        token = _sample(p_logits, q_logits, row, node_row, p_stride, q_stride, temperature, p_sums, q_sums, weight,
                        drafted, subtracts, tl.where(refused, residual, bonus), mass, V, BLOCK, HAS_Q)  # fmt: skip
        tl.store(next_tokens + sequence, token)
    tl.store(lengths + sequence, length)


@dataclass(frozen=True, eq=False)
class Drafts:
    """The drafts of a ragged batch. A sequence with N nodes has N + 1 rows of logits, one after the other.

    Args:
        tokens, parents: of all nodes, sequence after sequence; parents count from the sequence's own first node, -1 is
            the root.
        counts: nodes of each sequence.
        sources, anchors: random numbers and committed tokens of each sequence.
        temperatures: of each sequence; 1 if the logits are scores already.
        depths: of all nodes; in a chain 0, 1, 2, …
    """

    tokens: Sequence[int]
    parents: Sequence[int]
    counts: Sequence[int]
    sources: Sequence[RandomSource]
    anchors: Sequence[int]
    temperatures: Sequence[float]
    depths: Sequence[int]


@dataclass(frozen=True, eq=False)
class Verdicts:
    """What `judge` found, on the device.

    Args:
        path: int32 [nodes]; a sequence's kept nodes are the first of its part.
        lengths: int32 [sequences], number of kept nodes.
        next_tokens: int32 [sequences].
        largest: float32 [rows], largest score of every row, to be checked: infinite where there was a NaN.
    """

    path: Tensor
    lengths: Tensor
    next_tokens: Tensor
    largest: Tensor


def judge(rule: str, p_logits: Tensor, drafts: Drafts, q_logits: Tensor | None = None, block: int = BLOCK) -> Verdicts:
    """Verdicts of one rule on a ragged batch.

    Args:
        rule: greedy or gumbel (any tree), token or block (chains).
        p_logits: float [rows, V], the target's; the last dimension must be dense.
        drafts: what was drafted.
        q_logits: float [nodes, V], what each node was drawn from, for token and block; None for deterministic drafts.
        block: tokens that are looked at together.

    Raises:
        ConfigError: for an unknown rule, or rows that do not fit the drafts.
    """
    if rule not in RULES:
        raise ConfigError(f"Rule {rule!r} has no GPU kernel. Valid names: {', '.join(RULES)}.")
    sequences, nodes = len(drafts.counts), len(drafts.tokens)
    if len(p_logits) != nodes + sequences or sum(drafts.counts) != nodes:
        raise ConfigError(f"{nodes} nodes of {sequences} sequences need {nodes + sequences} rows, got {len(p_logits)}.")
    device, V = p_logits.device, p_logits.shape[1]
    node_starts, row_starts, row_seeds, row_positions, temperatures = [0], [], [], [], []
    for s, count in enumerate(drafts.counts):
        first = node_starts[s]
        row_starts.append(first + s)
        row_positions += [drafts.anchors[s], *(drafts.anchors[s] + d + 1 for d in drafts.depths[first : first + count])]
        seed = drafts.sources[s].seed
        row_seeds += [seed - 2**64 if seed >= 2**63 else seed] * (count + 1)
        temperatures += [drafts.temperatures[s]] * (count + 1)
        node_starts.append(first + count)
    tables = [row_seeds, row_positions, row_starts, node_starts, drafts.tokens, drafts.parents, drafts.anchors]
    seeds, *rest = upload(tables, torch.int64, device)
    positions, rows_at, nodes_at, tokens, parents, anchors = (table.int() for table in rest)
    scales = torch.tensor(temperatures, dtype=torch.float32).to(device, non_blocking=True)
    p_sums = torch.empty(len(p_logits), dtype=torch.float64, device=device)
    q_sums = torch.empty(nodes, dtype=torch.float64, device=device)
    largest, best = (torch.empty(len(p_logits), dtype=kind, device=device) for kind in (torch.float32, torch.int32))
    walks = rule in ("greedy", "gumbel")
    stats_kernel[(len(p_logits),)](
        p_logits, scales, seeds, positions, p_logits.stride(0), V, p_sums, largest, best,
        BLOCK=block, NOISY=rule == "gumbel", SUMS=not walks,
    )  # fmt: skip
    has_q = q_logits is not None and nodes > 0 and not walks
    q = p_logits if q_logits is None else q_logits
    if has_q:
        node_scales = torch.cat(
            [scales[first : first + count] for first, count in zip(row_starts, drafts.counts, strict=True)]
        )
        unused, spare = torch.empty(nodes, device=device), torch.empty(nodes, dtype=torch.int32, device=device)
        stats_kernel[(nodes,)](
            q, node_scales, seeds, positions, q.stride(0), V, q_sums, unused, spare, BLOCK=block, NOISY=False, SUMS=True
        )
    path, lengths, next_tokens = (
        torch.zeros(n, dtype=torch.int32, device=device) for n in (max(nodes, 1), sequences, sequences)
    )
    verdict_kernel[(sequences,)](
        p_logits, q, p_sums, q_sums, best, rows_at, nodes_at, tokens, parents, scales, seeds, anchors,
        p_logits.stride(0), q.stride(0), V, path, lengths, next_tokens, RULE=RULES[rule], BLOCK=block, HAS_Q=has_q,
    )  # fmt: skip
    return Verdicts(path, lengths, next_tokens, largest)
