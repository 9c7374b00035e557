"""What several rounds over the same prompts say together."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from specdec.measure.compare import Comparison, Pair
from specdec.measure.metrics import drafting_cost, speedup, speedup_interval
from specdec.stats import DecodingStats


def figures(rounds: Sequence[Sequence[Pair]]) -> dict[str, Any]:
    """Of some prompts, in every round the same ones: counts, ratios of the rounds, and their interval over prompts.

    Args:
        rounds: at least one, of at least one prompt each.
    """
    sides = [Comparison(one).sides for one in rounds]
    ratios = [speedup(plain, fast) for plain, fast in sides]
    summed = [[DecodingStats.total(of) for of in zip(*side, strict=True)] for side in zip(*sides, strict=True)]
    plain, total = (DecodingStats.total(side) for side in summed)
    return {"prompts": len(rounds[0]), "tau": total.mean_accepted_length, "alpha": total.acceptance_rate,
            "ratio": median(ratios), "least": min(ratios), "most": max(ratios),
            "interval": speedup_interval(summed[0], summed[1]), "drafting": drafting_cost(plain, total),
            "identical": sum(all(pair.identical for pair in of) for of in zip(*rounds, strict=True))}  # fmt: skip
