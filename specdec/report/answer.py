"""What a study found, in a few sentences for each condition: which method is the fastest, by how much, whether that can
be chance, and why."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from specdec.measure.paired import paired_ratio
from specdec.report.differences import Contest, Entrant, told

MAX_NAMES = 3
"""Methods that a sentence names one by one."""
NO_SPEEDUP = "No speedup can be reported."


def answer(contest: Contest) -> tuple[str, str]:
    """Of one condition, without its name: what was found, and why.

    Args:
        contest: of the study.
    """
    if not contest.ranked:
        return _why_none(contest)
    first, *others = contest.ranked
    place = 1 if first.plain and others else 0
    best = contest.ranked[place]
    rivals = contest.ranked[place + 1 :]
    found = f"{_claim(best, place, bool(rivals))} {_rivals(contest, place)}" if rivals else _claim(best, place, False)
    return found, _reasons(best)


def _claim(best: Entrant, place: int, rivals: bool) -> str:
    if best.plain:
        return "Only plain decoding was measured."
    speed = f"{best.speedup:.2f} times as fast as plain decoding{_within(best)}"
    if place or (best.speedup or 0.0) <= 1.0:
        return f"No method is faster than plain decoding. The best one, {best.name}, is {speed}."
    chance = " This lead over plain decoding may be chance." if _sure(best) is False else ""
    return f"{best.name} is {'the fastest: ' if rivals else ''}{speed}.{chance}"


def _within(best: Entrant) -> str:
    if not best.spread:
        return ""
    return f" ({best.spread} between seeds)" if len(best.standings) > 1 else f" (95 % interval {best.spread})"


def _sure(best: Entrant) -> bool | None:
    """Whether the paired interval of its speedups over prompts lies above 1; None if it has none."""
    ratios = list(best.by_prompt.values())
    low = paired_ratio(ratios, [1.0] * len(ratios)).low if ratios else None
    return None if low is None else low > 1.0


def _rivals(contest: Contest, place: int) -> str:
    """How the next methods stand to the one at `place`; there is one at least."""
    behind = range(place + 1, len(contest.ranked))
    known = [other for other in behind if (place, other) in contest.pairs]
    if not known:
        return "It shares too few prompts with the other methods to test the difference."
    alike = [contest.ranked[other].name for other in known if not contest.different(place, other)]
    if alike:
        return f"Its lead over {_listed(alike)} is not significant."
    pair = contest.pairs[place, known[0]]
    assert pair.low is not None
    assert pair.high is not None
    next_one = contest.ranked[known[0]].name
    by = f"It is {pair.ratio:.2f} times as fast as {next_one} ({pair.low:.2f}–{pair.high:.2f}, p {_p(pair.p)})"
    return f"{by}. The others are significantly slower too." if len(known) > 1 else f"{by}."


def _reasons(best: Entrant) -> str:
    passes = f"A target pass gives τ = {best.mean('tau'):.2f} tokens"
    accepted = f"{best.mean('alpha'):.0%} of the tested draft tokens are accepted (α)"
    costs = [one.figures["drafting_cost"] for one in best.standings]
    cost = "" if any(one is None for one in costs) else f"Drafting costs {fmean(costs):.0%} of a plain step. "
    draft, verify, host = (f"{best.mean(f'{part}_share'):.0%}" for part in ("draft", "verify", "host"))
    time = f"Time: {draft} drafting, {verify} target passes, {host} the rest."
    return f"{passes}; {accepted}. {cost}{time}"


def _why_none(contest: Contest) -> tuple[str, str]:
    if contest.errors:
        names = _listed([one.name for one in contest.errors])
        return NO_SPEEDUP, f"The speedup of {names} is above τ: a measuring error."
    if any(not one.method.evidence for entrant in contest.others for one in entrant.standings):
        return NO_SPEEDUP, "The jobs ran side by side, so their times are not reliable. Compare τ and α."
    return NO_SPEEDUP, "No plain decoding was measured. Compare τ and α."


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    *first, last = [*names[:MAX_NAMES], f"{more} more"] if more > 0 else names
    return f"{', '.join(first)} and {last}" if first else last


def _p(p: float) -> str:
    text = told(p)
    return text if text.startswith("<") else f"= {text}"
