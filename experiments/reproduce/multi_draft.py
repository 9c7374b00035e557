"""Rules with several candidates for one token, compared with the optimal-transport bound for all rules.

Mean acceptance over 200 pairs of Dirichlet(1) distributions over three tokens, with two candidates, in exact fractions.
The pairs are ours, not the published ones. Both sides have the same number of pairs, so a difference has √2 times the
standard error of one mean. Differences are given in these units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from statistics import fmean, stdev
from typing import Any

import numpy as np

from experiments.reproduce.options import LAYERS, Options
from experiments.reproduce.rows import Position, accepted, positions
from specdec.proof.bounds import iid_bound, subset_bound
from specdec.proof.exact import Setting, expected_accepted
from specdec.registry import RULES
from specdec.verify.rational import Row
from specdec.verify.tree import TreeShape

TITLE = "Multi-draft rules and the optimal-transport bound"
VOCABULARY, PAIRS = 3, 200
ONE = "one candidate (token)"
PUBLISHED = {
    ONE: 0.593,
    "SpecInfer (multiround)": 0.684,
    "k-SEQ (kseq)": 0.700,
    "bound, independent candidates": 0.735,
    "without replacement (rrs)": 0.791,
    "bound, without replacement": 0.860,
}
CANDIDATES, RULES_OF_TREES, DRAWS = (1, 2, 4), ("multiround", "kseq", "rrs"), 8


def run(options: Options) -> dict[str, Any]:
    """Both studies: pairs drawn at random, and the rows of a trace."""
    where = positions(options.trace)
    return {**_pairs(20 if options.quick else PAIRS), "layers": LAYERS, "positions": len(where),
            "real": _real(where, 2 if options.quick else DRAWS)}  # fmt: skip


def _pairs(count: int) -> dict[str, Any]:
    """Mean and standard error of each line, of its gain over one candidate, and pairs above their bound."""
    generator = np.random.default_rng(0)
    pairs = [(_row(generator), _row(generator)) for _ in range(count)]
    lines: dict[str, Callable[[Row, Row], Fraction]] = {
        ONE: lambda p, q: _accepted("token", p, q, 1),
        "SpecInfer (multiround)": lambda p, q: _accepted("multiround", p, q, 2),
        "k-SEQ (kseq)": lambda p, q: _accepted("kseq", p, q, 2),
        "bound, independent candidates": lambda p, q: _bound("multiround", p, q),
        "without replacement (rrs)": lambda p, q: _accepted("rrs", p, q, 2),
        "bound, without replacement": lambda p, q: _bound("rrs", p, q),
    }
    values = {name: [line(p, q) for p, q in pairs] for name, line in lines.items()}
    below = {"SpecInfer (multiround)": "bound, independent candidates", "k-SEQ (kseq)": "bound, independent candidates",
             "without replacement (rrs)": "bound, without replacement"}  # fmt: skip
    return {
        "pairs": count,
        "lines": {name: _line(of, values[ONE]) for name, of in values.items()},
        "violations": sum(values[rule][i] > values[bound][i] for i in range(count) for rule, bound in below.items()),
    }


def _line(values: Sequence[Fraction], single: Sequence[Fraction]) -> dict[str, float]:
    gains = [float(value - one) for value, one in zip(values, single, strict=True)]
    numbers = [float(value) for value in values]
    root = len(numbers) ** 0.5
    return {"mean": fmean(numbers), "error": stdev(numbers) / root, "gain": fmean(gains),
            "gain_error": stdev(gains) / root}  # fmt: skip


def _row(generator: np.random.Generator) -> Row:
    """A Dirichlet(1) distribution, as fractions that sum to one."""
    weights = [Fraction(float(weight)).limit_denominator(10**6) for weight in generator.exponential(size=VOCABULARY)]
    total = sum(weights, Fraction(0))
    return tuple(weight / total for weight in weights)


def _accepted(rule: str, p: Row, q: Row, candidates: int) -> Fraction:
    setting = Setting("pair", lambda _: p, lambda _: q, TreeShape.fork(candidates, 1), max_tokens=2)
    return expected_accepted(RULES.create(rule), setting)


def _bound(rule: str, p: Row, q: Row) -> Fraction:
    """For candidates that are drawn as `rule` draws them."""
    return subset_bound(p, RULES.create(rule).draw_law(q, 2))


def _real(where: Sequence[Position], draws: int) -> list[dict[str, Any]]:
    """By number of candidates: each rule's observed share, and the bound for independent candidates."""
    return [
        {"candidates": k, "bound": fmean(iid_bound(one.p, one.q, k) for one in where),
         "rules": {name: vars(accepted(RULES.create(name), where, k, draws)) for name in RULES_OF_TREES}}
        for k in CANDIDATES
    ]  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| | published | ours ± s.e. | off by | over one candidate, published | ours ± s.e. | off by |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, one in result["lines"].items():
        cells = [name, *_beside(PUBLISHED[name], one["mean"], one["error"])]
        gain = (
            ["", "", ""] if name == ONE else _beside(PUBLISHED[name] - PUBLISHED[ONE], one["gain"], one["gain_error"])
        )
        lines.append(f"| {' | '.join([*cells, *gain])} |")
    lines += [
        "",
        f"{result['pairs']} pairs, every number computed exactly; on {result['violations']} of them a rule exceeds its "
        "bound. All lines use the same pairs, so their errors go together. The gain over one candidate varies less.",
        "",
        f"On the embedded target's rows, drafted by its first {result['layers']} layers, at temperature 1:",
        "",
        f"| candidates | {' | '.join(RULES_OF_TREES)} | bound, independent candidates |",
        "|" + "---|" * (len(RULES_OF_TREES) + 2),
    ]
    for one in result["real"]:
        shares = [f"{share['mean']:.3f} ± {share['error']:.3f}" for share in one["rules"].values()]
        lines.append(f"| {one['candidates']} | {' | '.join(shares)} | {one['bound']:.3f} |")
    lines += ["", f"{result['positions']} positions. Shares are sampled, with the standard error of the samples. The "
              "bound is computed. It does not hold for `rrs`, whose candidates are all different: that bound would "
              "take time exponential in the vocabulary."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _beside(published: float, ours: float, error: float) -> list[str]:
    """Cells: published, ours, and how many standard errors of their difference lie between."""
    return [f"{published:.3f}", f"{ours:.3f} ± {error:.3f}", f"{(ours - published) / (error * 2**0.5):+.1f} s.e."]
