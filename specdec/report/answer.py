"""What a study found, in a sentence for each condition: who leads, by how much, how certain that is, and why."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from specdec.measure.paired import paired_ratio
from specdec.report.differences import Contest, Entrant, told

MAX_NAMES = 3
"""Methods that a sentence names one by one."""


def answer(contest: Contest) -> str:
    """Of one condition, without its name.

    Args:
        contest: of the study.
    """
    if not contest.ranked:
        return f"No speedup counts: {_why_none(contest)}."
    first, *others = contest.ranked
    place = 1 if first.plain and others else 0
    best = contest.ranked[place]
    sentence = f"{_claim(contest, best, place)}; {_rivals(contest, place)}" if others else _claim(contest, best, place)
    return f"{sentence}. {_reasons(best)}"


def _claim(contest: Contest, best: Entrant, place: int) -> str:
    speed = f"{best.speedup:.2f} times plain decoding" + _within(best)
    if best.plain:
        return f"Only plain decoding was measured: {best.name}"
    if place or (best.speedup or 0.0) <= 1.0:
        return f"No method is faster than plain decoding: the best, {best.name}, has {speed}"
    if _sure(best) is False:
        return f"{best.name} leads with {speed}, which is not certain to be faster than plain decoding"
    return f"{best.name} leads with {speed}"


def _within(best: Entrant) -> str:
    if not best.spread:
        return ""
    return f" ({best.spread} between seeds)" if len(best.standings) > 1 else f" (95 %: {best.spread})"


def _sure(best: Entrant) -> bool | None:
    """Whether the paired interval of its speedups over prompts lies above 1; None if it has none."""
    ratios = list(best.by_prompt.values())
    low = paired_ratio(ratios, [1.0] * len(ratios)).low if ratios else None
    return None if low is None else low > 1.0


def _rivals(contest: Contest, place: int) -> str:
    """How the next methods stand to the one at `place`."""
    behind = range(place + 1, len(contest.ranked))
    names = [contest.ranked[other].name for other in behind]
    if not behind:
        return "no other method was measured"
    known = [other for other in behind if (place, other) in contest.pairs]
    if not known:
        return "too few prompts are shared to tell it from the others"
    alike = [contest.ranked[other].name for other in known if not contest.different(place, other)]
    if alike:
        return f"it is not distinguishable from {_listed(alike)}"
    pair = contest.pairs[place, known[0]]
    assert pair.low is not None
    assert pair.high is not None
    by = f"{pair.ratio:.2f} times {names[0]} ({pair.low:.2f}–{pair.high:.2f}, p {_p(pair.p)})"
    return f"it is {by}" + (", and the others differ from it too" if len(known) > 1 else "")


def _reasons(best: Entrant) -> str:
    shares = ", ".join(f"{best.mean(f'{part}_share'):.0%} {part}" for part in ("draft", "verify", "host"))
    costs = [one.figures["drafting_cost"] for one in best.standings]
    cost = "" if any(one is None for one in costs) else f", drafting costs {fmean(costs):.0%} of a plain step"
    return f"Why: τ {best.mean('tau'):.2f} at α {best.mean('alpha'):.2f}{cost}; time: {shares}."


def _why_none(contest: Contest) -> str:
    if contest.errors:
        return f"{_listed([one.name for one in contest.errors])} measured above τ, which is an error"
    if any(not one.method.evidence for entrant in contest.others for one in entrant.standings):
        return "jobs ran side by side; compare τ and α"
    return "nothing was decoded plainly beside the methods; compare τ and α"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _p(p: float) -> str:
    text = told(p)
    return text if text.startswith("<") else f"= {text}"
