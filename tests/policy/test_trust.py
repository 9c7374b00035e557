"""What chosen drafts promised against what came of them: by hand, and where the largest of noisy estimates is taken."""

from __future__ import annotations

from random import Random

import pytest

from specdec.policy.base import Ask, Candidate, Draft, Drafted, Load, Pick
from specdec.policy.curve import CostCurve
from specdec.policy.select import SelectPolicy
from specdec.policy.trust import MEMORY, MOST, PRIOR, Trust
from specdec.verify.tree import DraftTree

CURVE = CostCurve((1, 8, 16), (1.0, 1.4, 2.4))


def test_a_ratio_by_hand() -> None:
    trust = Trust()
    assert trust.of("a") == 1.0
    for accepted in (0, 1):
        trust.promise(7, "a", 2.0)
        trust.observe(7, "a", accepted)
    assert trust.of("a") == pytest.approx((1 + PRIOR) / (2 * MEMORY + 2 + PRIOR))
    assert trust.of("b") == 1.0
    for _ in range(2000):
        trust.promise(7, "b", 1.0)
        trust.observe(7, "b", 3)
    assert trust.of("b") == MOST


def test_what_was_not_verified_says_nothing() -> None:
    trust = Trust()
    for verified in ("", "b"):
        trust.promise(1, "a", 5.0)
        trust.observe(1, verified, 0)
    trust.promise(2, "a", 5.0)
    trust.end(2)
    trust.observe(2, "a", 0)
    trust.observe(3, "a", 4)
    assert trust.of("a") == 1.0
    assert not trust._promises


def test_nothing_grows_over_ten_thousand_requests() -> None:
    trust = Trust()
    for request in range(10_000):
        trust.promise(request, "a", 1.0)
        if request % 2:
            trust.observe(request, "a", 1)
        trust.end(request)
    assert len(trust._records) == 1
    assert not trust._promises


def test_a_drafter_that_wins_by_its_errors_is_found_out() -> None:
    """The steady drafter is right with probability 0.7, and says so. The wild one says 0.95 or 0.05 and is right with
    0.5 either way, its rate on average: it is chosen only where it says too much. Its nodes are of too many kinds for
    their rates to be learnt one by one. The text goes on with 5 always."""
    policy, random = SelectPolicy(CURVE), Random(4)
    candidates = tuple(Candidate(name, 1, trimmable=True) for name in ("steady", "wild"))
    chosen: list[str] = []
    for _ in range(1500):
        right = {"steady": random.random() < 0.7, "wild": random.random() < 0.5}
        says = {"steady": 0.7, "wild": random.choice([0.95, 0.05])}
        kinds = {"steady": 0, "wild": random.randrange(1024)}
        drafts = {
            name: Draft(name, DraftTree((5 if right[name] else 6,), (-1,), chances=(says[name],), kinds=(kinds[name],)))
            for name in right
        }
        policy.choose([Ask(0, candidates)], Load(1, 1))
        [pick] = policy.pick([Drafted(0, tuple(drafts.values()))], Load(1, 1))
        policy.timed(Load(2, 1), CURVE(2))
        assert isinstance(pick, Pick)
        chosen.append(pick.drafter)
        path = (0,) if right[pick.drafter] else ()
        policy.observe(0, drafts[pick.drafter], path, [5, 9] if path else [5])
    assert policy.trust.of("wild") < 0.85
    assert policy.trust.of("steady") == pytest.approx(1.0, abs=0.1)
    assert chosen[-500:].count("wild") < 150
