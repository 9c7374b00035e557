"""The fixed settings in which every rule is certified: the corners where samplers go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache

from specdec.proof.exact import Conditional, Setting, Tokens
from specdec.verify.rational import ZERO, Row, normalized, one_hot, without
from specdec.verify.tree import DraftTree, TreeShape

CHAIN_2, CHAIN_3 = TreeShape.chain(2), TreeShape.chain(3)
FORK, TWO_CHAINS = TreeShape.fork(2, 1), TreeShape.fork(2, 2)
THREE, FOUR, THREE_BELOW = TreeShape.fork(3, 1), TreeShape.fork(4, 1), TreeShape((-1, 0, 0, 0))
BUSHY, SEVEN = TreeShape((-1, -1, 0, 0, 1)), TreeShape((-1, -1, 0, 0, 1, 1, 2))
WEIGHTS = (0, 1, 2, 3, 5, 8)


def table(seed: int, vocab_size: int, zeros: bool = False) -> Conditional:
    """A distribution of its own for every prefix, made of small whole numbers."""

    @cache
    def row(prefix: Tokens) -> Row:
        state = seed * 7919 + 12345
        for token in (*prefix, 0):
            state = (state * 1103515245 + token * 2654435761 + 12345) % 2**31
        weights = []
        for _ in range(vocab_size):
            state = (state * 1103515245 + 12345) % 2**31
            weights.append(Fraction(WEIGHTS[(state >> 16) % 6] if zeros else 1 + (state >> 16) % 7))
        return normalized(weights) if any(weights) else one_hot(state % vocab_size, vocab_size)

    return row


def constant(*weights: int) -> Conditional:
    """The same distribution whatever came before."""
    row = normalized(map(Fraction, weights))
    return lambda prefix: row


def by_last(*rows: Sequence[int]) -> Conditional:
    """The first row to begin with; after token t the one that stands t + 1 places further, and round again."""
    normal = [normalized(map(Fraction, row)) for row in rows]
    return lambda prefix: normal[(prefix[-1] + 1 if prefix else 0) % len(normal)]


def transformed(law: Conditional, transform: Callable[[Row], Row]) -> Conditional:
    """`law` after a sampling transform."""
    return lambda prefix: transform(law(prefix))


def top_k(k: int) -> Callable[[Row], Row]:
    """Keeps the k largest and those tied with the k-th."""
    return lambda row: normalized(mass if mass >= sorted(row)[-k] else ZERO for mass in row)


def top_p(least: Fraction) -> Callable[[Row], Row]:
    """Keeps the fewest largest masses that reach `least`; of tied ones the first."""

    def keep(row: Row) -> Row:
        kept: set[int] = set()
        reached = ZERO
        for token in sorted(range(len(row)), key=lambda token: -row[token]):
            if reached >= least:
                break
            kept.add(token)
            reached += row[token]
        return normalized(mass if token in kept else ZERO for token, mass in enumerate(row))

    return keep


def power(n: int) -> Callable[[Row], Row]:
    """Temperature 1/n."""
    return lambda row: normalized(mass**n for mass in row)


FLAT, BENT, PEAKED = (10, 10, 10, 10, 10, 4), (10, 10, 10, 10, 10, 2), (40, 4, 2, 1, 1, 1)
"""Their smallest masses, and PEAKED's second, lie between the two thresholds of typical acceptance or just below."""


TRANSFORMS: dict[str, Callable[[Row], Row]] = {
    "temperature 1": lambda row: row,
    "temperature 1/2": power(2),
    "top-k 2": top_k(2),
    "top-p 3/4": top_p(Fraction(3, 4)),
}


def forbidden(target: Conditional, token: int, junk: Conditional) -> Conditional:
    """A target that never emits `token`. After it stands junk: no text gets there, though a draft may."""

    def row(prefix: Tokens) -> Row:
        return junk(prefix) if token in prefix else normalized(without(target(prefix), token))

    return row


def first_vector() -> Setting:
    """p = (1/3, 2/3), q = (2/3, 1/3), γ = 2: 10/9 accepted by `token`, 11/9 by `block`."""
    return Setting("first test vector", constant(1, 2), constant(2, 1), CHAIN_2, max_tokens=3)


def chains(quick: bool) -> list[Setting]:
    """One drafted branch."""
    p, q = table(1, 3), table(2, 3)
    sparse_p, sparse_q = table(3, 4, zeros=True), table(4, 4, zeros=True)
    settings = [
        first_vector(),
        Setting("distinct rows", p, q, CHAIN_2, max_tokens=4),
        Setting("zeros in p and q", sparse_p, sparse_q, CHAIN_2, max_tokens=3),
        Setting("no overlap", constant(1, 2, 0, 0), constant(0, 0, 1, 3), CHAIN_2, max_tokens=3),
        Setting("p = q", p, p, CHAIN_2, max_tokens=3),
        Setting("point masses", constant(0, 1, 0), constant(0, 1, 0), CHAIN_2, max_tokens=3),
        Setting("point mass against spread", constant(0, 1, 0), constant(1, 1, 1), CHAIN_2, max_tokens=3),
        Setting("end token", p, q, CHAIN_2, max_tokens=4, eos=1),
        Setting(
            "smaller draft vocabulary", table(5, 4), transformed(table(6, 4), _last_removed), CHAIN_2, max_tokens=3
        ),
        Setting(
            "forbidden token", forbidden(constant(5, 2, 3), 2, table(9, 3)), constant(2, 3, 5), CHAIN_2, max_tokens=3
        ),
        Setting("flat and peaked", by_last(FLAT, BENT, PEAKED), constant(1, 1, 1, 1, 1, 1), CHAIN_2, max_tokens=3),
    ]
    if not quick:
        settings += [
            Setting("three drafted tokens", p, q, CHAIN_3, max_tokens=4),
            Setting("cut inside the draft", p, q, CHAIN_3, max_tokens=3),
            Setting("large vocabulary", table(7, 5), table(8, 5), CHAIN_3, max_tokens=4),
        ]
    return settings


def trees(quick: bool) -> list[Setting]:
    """Several drafted branches."""
    p, q = table(11, 3), table(12, 3)
    settings = [
        Setting("two candidates", p, q, FORK, max_tokens=3),
        Setting("two chains", p, q, TWO_CHAINS, max_tokens=3),
        Setting(
            "more candidates than support",
            constant(1, 2, 3),
            constant(1, 1, 0),
            TreeShape((-1, -1, -1, 0)),
            max_tokens=3,
        ),
        Setting("tree, zeros", table(13, 3, zeros=True), table(14, 3, zeros=True), BUSHY, max_tokens=3),
        Setting("tree, end token", p, q, TWO_CHAINS, max_tokens=4, eos=2),
        Setting("tree, forbidden token", forbidden(table(19, 3), 2, table(9, 3)), q, TWO_CHAINS, max_tokens=3),
        *many_candidates(),
        # The exact solution of k-SEQ's equation is 3/2 + 5e-18, which float64 takes for 3/2.
        Setting("beyond float64", constant(7, 1), constant(5 * 10**16 - 1, 7 * 10**16 + 1), FORK, max_tokens=2),
    ]
    if not quick:
        settings += [
            Setting("bushy tree", p, q, BUSHY, max_tokens=4),
            Setting("tree, no overlap", constant(1, 1, 0, 0), constant(0, 0, 1, 1), TWO_CHAINS, max_tokens=3),
            Setting("tree of seven nodes", table(15, 2), table(16, 2), SEVEN, max_tokens=4),
        ]
    return settings


def many_candidates() -> list[Setting]:
    """Nodes with three and four candidates, and more tokens than that: with as many tokens as candidates the last one
    is certain, whatever became of p and q after the refusals before. The target wants two tokens that are seldom drawn,
    so that the last candidate is often asked, and then open."""
    p, q = constant(1, 2, 9, 10), constant(9, 8, 3, 1)
    return [
        Setting("three candidates", p, q, THREE, max_tokens=2),
        Setting("four candidates", constant(1, 1, 2, 9, 10), constant(9, 8, 7, 3, 1), FOUR, max_tokens=2),
        Setting("three candidates below a token", p, q, THREE_BELOW, max_tokens=3),
    ]


def stopping(with_trees: bool) -> list[Setting]:
    """Drafting ends for what is known of a branch: how sure q was of the token drawn last, and which token it is. Each
    is kept; a token that is dropped for what it is would change the law."""
    stops = {"where q is flat": _flat, "below a token": _below_one}
    chain = by_last((1, 2, 3), (4, 1, 1), (2, 2, 1)), by_last((4, 2, 1), (1, 4, 2), (1, 1, 1)), CHAIN_3
    tree = by_last((1, 2), (4, 1), (2, 2)), by_last((3, 2), (1, 1), (4, 1)), TreeShape.fork(2, 3)
    return [
        Setting(f"{called}, stops {where}", p, q, shape, stop, max_tokens=4)
        for called, (p, q, shape) in {"chain": chain, **({"tree": tree} if with_trees else {})}.items()
        for where, stop in stops.items()
    ]


def _flat(tokens: Tokens, rows: Sequence[Row]) -> bool:
    return max(rows[-1]) < Fraction(11, 20)


def _below_one(tokens: Tokens, rows: Sequence[Row]) -> bool:
    return tokens[-1] == 1


def deterministic(quick: bool, with_trees: bool) -> list[Setting]:
    """A drafter that does not draw."""
    p = table(21, 3)
    guesses = DraftTree.chain([2, 0])
    settings = [
        Setting("deterministic chain", p, propose=lambda text: guesses, max_tokens=4),
        Setting("deterministic, impossible guess", constant(1, 0, 1), propose=lambda text: DraftTree.chain([1, 0])),
    ]
    if with_trees:
        tree = DraftTree((2, 0, 1, 1), (-1, -1, 0, 1))
        settings.append(Setting("deterministic tree", p, propose=lambda text: tree, max_tokens=4))
        if not quick:
            full = DraftTree((0, 1, 2, 0), (-1, -1, -1, 2))
            settings.append(Setting("every token a candidate", p, propose=lambda text: full, max_tokens=3))
    return settings


def filtered(with_trees: bool, with_deterministic_trees: bool) -> list[Setting]:
    """Every kind of drafter under every sampling transform, the same for p and q."""
    p, q = table(41, 4), table(42, 4)
    chain, tree = DraftTree.chain([3, 1]), DraftTree((3, 1, 0), (-1, -1, 0))
    settings = []
    for name, transform in TRANSFORMS.items():
        tp, tq = transformed(p, transform), transformed(q, transform)
        settings.append(Setting(f"chain, {name}", tp, tq, CHAIN_2, max_tokens=3))
        settings.append(Setting(f"deterministic chain, {name}", tp, propose=lambda text: chain, max_tokens=3))
        if with_trees:
            settings.append(Setting(f"tree, {name}", tp, tq, TreeShape((-1, -1, 0)), max_tokens=3))
        if with_deterministic_trees:
            settings.append(Setting(f"deterministic tree, {name}", tp, propose=lambda text: tree, max_tokens=3))
    return settings


def _last_removed(row: Row) -> Row:
    return normalized((*row[:-1], ZERO))
