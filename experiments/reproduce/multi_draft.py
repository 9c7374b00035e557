"""Several candidates for one token: rules, and what optimal transport allows any of them.

Mean acceptance over 200 pairs of Dirichlet(1) distributions over three tokens, two candidates, in exact fractions. The
pairs are ours, so that a mean may differ from the published one by some standard errors, which are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from statistics import fmean, stdev
from typing import Any

import numpy as np

from experiments.reproduce.options import Options
from specdec.analysis.bounds import subset_bound
from specdec.registry import RULES
from specdec.verify.exact import Setting, expected_accepted
from specdec.verify.rational import Row

TITLE = "Multi-draft rules and the optimal-transport bound"
VOCABULARY, PAIRS = 3, 200
PUBLISHED = {
    "one candidate (token)": 0.593,
    "SpecInfer (multiround)": 0.684,
    "k-SEQ (kseq)": 0.700,
    "bound, independent candidates": 0.735,
    "without replacement (rrs)": 0.791,
    "bound, without replacement": 0.860,
}


def run(options: Options) -> dict[str, Any]:
    """Mean and standard error of each line."""
    generator = np.random.default_rng(0)
    pairs = [(_row(generator), _row(generator)) for _ in range(20 if options.quick else PAIRS)]
    lines: dict[str, Callable[[Row, Row], Fraction]] = {
        "one candidate (token)": lambda p, q: _accepted("token", p, q, 1),
        "SpecInfer (multiround)": lambda p, q: _accepted("multiround", p, q, 2),
        "k-SEQ (kseq)": lambda p, q: _accepted("kseq", p, q, 2),
        "bound, independent candidates": lambda p, q: _bound("multiround", p, q),
        "without replacement (rrs)": lambda p, q: _accepted("rrs", p, q, 2),
        "bound, without replacement": lambda p, q: _bound("rrs", p, q),
    }
    values = {name: [float(line(p, q)) for p, q in pairs] for name, line in lines.items()}
    return {
        "pairs": len(pairs),
        "lines": {name: {"mean": fmean(of), "error": stdev(of) / len(of) ** 0.5} for name, of in values.items()},
        "violations": sum(
            values[rule][i] > values[bound][i] + 1e-9
            for i in range(len(pairs))
            for rule, bound in (("k-SEQ (kseq)", "bound, independent candidates"),
                                ("SpecInfer (multiround)", "bound, independent candidates"),
                                ("without replacement (rrs)", "bound, without replacement"))
        ),
    }  # fmt: skip


def _row(generator: np.random.Generator) -> Row:
    """A Dirichlet(1) distribution, as fractions that sum to one."""
    weights = [Fraction(float(weight)).limit_denominator(10**6) for weight in generator.exponential(size=VOCABULARY)]
    total = sum(weights, Fraction(0))
    return tuple(weight / total for weight in weights)


def _accepted(rule: str, p: Row, q: Row, candidates: int) -> Fraction:
    setting = Setting("pair", lambda _: p, lambda _: q, (-1,) * candidates, max_tokens=2)
    return expected_accepted(RULES.create(rule), setting)


def _bound(rule: str, p: Row, q: Row) -> Fraction:
    """For candidates that are drawn as `rule` draws them."""
    return subset_bound(p, RULES.create(rule).draw_law(q, 2))


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| | published | ours | ± s.e. | off by |", "|---|---|---|---|---|"]
    for name, one in result["lines"].items():
        off = (one["mean"] - PUBLISHED[name]) / one["error"]
        lines.append(f"| {name} | {PUBLISHED[name]:.3f} | {one['mean']:.3f} | {one['error']:.3f} | {off:+.1f} s.e. |")
    lines += ["", f"{result['pairs']} pairs, every number an exact law. {result['violations']} pairs on which a rule "
              "exceeds its bound."]  # fmt: skip
    return "\n".join(lines) + "\n"
