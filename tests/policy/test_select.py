"""The best of several drafters at every step, and what drafters cost that are never the best."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from specdec import SamplingParams
from specdec.drafters.base import Drafter, DraftRequest
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.policy.base import Ask, Candidate, Choice, Draft, Drafted, Load, Pick
from specdec.policy.curve import CostCurve
from specdec.policy.select import Contest, SelectPolicy
from specdec.policy.spent import FIRST
from specdec.policy.worth import SHARE, Worth
from specdec.testing import OracleDrafter, PoisonDrafter
from specdec.verify.tree import ROOT, DraftTree
from tests.engines import outputs, run, small_engine

TYPICAL = CostCurve((1, 8, 16, 64), (1.0, 1.1, 1.5, 5.0))
GOOD, BAD, WIDE = DraftTree.chain([1, 2, 3]), DraftTree.chain([7, 8, 9]), DraftTree((7, 1), (ROOT, ROOT))
TWO = Ask(0, (Candidate("good", 3, True), Candidate("bad", 3, True)))
DRAWING = Ask(0, (Candidate("good", 3, True), Candidate("draws", 3, False)))


def step(policy: SelectPolicy, ask: Ask, drafts: dict[str, DraftTree], tokens: Sequence[int]) -> Pick | Choice | None:
    """One step of request 0: what is picked; the text goes on with `tokens`."""
    policy.choose([ask], Load(1, 1))
    there = tuple(Draft(name, tree) for name, tree in drafts.items())
    [pick] = policy.pick([Drafted(0, there)], Load(1, 1))
    verified = Draft("", DraftTree())
    if isinstance(pick, Pick) and pick.nodes:
        verified = Draft(pick.drafter, drafts[pick.drafter].of(pick.nodes))
    path = [n for n, token in enumerate(verified.tree.tokens) if token in tokens]
    policy.observe(0, verified, path, tokens)
    return pick


@pytest.mark.parametrize("order", [("good", "bad"), ("bad", "good")])
def test_a_draft_that_was_never_verified_is_known(order: tuple[str, str]) -> None:
    policy = SelectPolicy(TYPICAL)
    trees = {name: {"good": GOOD, "bad": BAD}[name] for name in order}
    picks = [step(policy, TWO, trees, (1, 2, 3, 4)) for _ in range(12)]
    assert all(isinstance(pick, Pick) and pick.drafter == "good" and len(pick.nodes) == 3 for pick in picks[4:])
    assert sum(isinstance(pick, Pick) and pick.drafter == "bad" for pick in picks) <= 2


def test_where_all_are_wrong_nothing_is_verified() -> None:
    policy = SelectPolicy(CostCurve((1, 8), (1.0, 3.0)))
    picks = [step(policy, TWO, {"good": GOOD, "bad": BAD}, (5,)) for _ in range(20)]
    assert all(isinstance(pick, Pick) and pick.nodes == () for pick in picks[-5:])
    for _ in range(30):  # the text changes, and nothing had to be tried to see it
        pick = step(policy, TWO, {"good": GOOD, "bad": BAD}, (1, 2, 3, 4))
    assert isinstance(pick, Pick)
    assert (pick.drafter, pick.nodes) == ("good", (0, 1, 2))


def test_a_drafter_that_draws_is_chosen_where_it_promises_more() -> None:
    policy = SelectPolicy(TYPICAL)
    drawn = Draft("draws", DraftTree.chain([1, 2, 3]))
    for _ in range(30):
        policy.observe(0, drawn, [0, 1, 2], (1, 2, 3, 4))
    policy.drafted("draws", 1, 3, 0.03)
    for _ in range(30):
        choice = step(policy, DRAWING, {"good": BAD}, (1, 2, 3, 4))
    assert isinstance(choice, Choice)
    assert (choice.drafter, choice.depth) == ("draws", 3)
    for _ in range(150):
        pick = step(policy, DRAWING, {"good": GOOD}, (1, 2, 3, 4))
    assert isinstance(pick, Pick)  # the same tokens for nothing
    for _ in range(3):
        policy.choose([DRAWING], Load(1, 1))
        [nothing_there] = policy.pick([Drafted(0, ())], Load(1, 1))
        assert isinstance(nothing_there, Choice)


def drafted_before(seconds: dict[str, float]) -> Worth:
    """Drafters whose times are known."""
    worth = Worth()
    for name, each in seconds.items():
        for _ in range(FIRST):
            worth.took(name, each)
    return worth


def test_what_is_never_the_best_is_asked_as_often_as_a_share_of_the_time_pays_for() -> None:
    worth, asked = drafted_before({"slow": 0.5}), 0
    for _ in range(10_000):
        names = worth.asked(0, ["slow", "fast"], 1, 1.0)
        assert "fast" in names
        asked += "slow" in names
        worth.promised(0, {name: {"slow": 1.0, "fast": 2.0}[name] for name in names}, 1.0)
        if len(names) == 2:
            worth.adds(0, "slow", 0.0)
            worth.adds(0, "fast", 1.0)
        worth.passed(1.0)
    assert asked * 0.5 == pytest.approx(SHARE * 10_000, rel=0.2)


def asked_together(seed: int) -> float:
    """How often two drafters that say the same are both asked, once both are known."""
    worth, draw, together = drafted_before({"one": 0.01, "two": 0.01}), random.Random(seed), 0
    for step in range(4000):
        names = worth.asked(0, ["one", "two"], 1, 1.0)
        assert names
        speeds = {name: draw.uniform(1.5, 2.5) for name in names}
        worth.promised(0, speeds, 1.0)
        if len(names) == 2:
            first, second = sorted(names, key=speeds.__getitem__, reverse=True)
            worth.adds(0, first, speeds[first] / speeds[second] - 1.0)
            worth.adds(0, second, 0.0)
            worth.kept(first, speeds[first] - speeds[second], draw.gauss(0.0, 0.5))
            together += step >= 2000
        worth.passed(1.0)
    return together / 2000


def test_of_two_drafters_that_say_the_same_one_is_asked() -> None:
    """Each estimate scatters, so one of them always promises more; what comes of it tells that it is no better. Of
    eight seeds the shares are 0.15 to 0.31, 0.2 on average; without what was kept they are nearly 1."""
    assert sum(map(asked_together, range(4))) / 4 < 0.3


def gains(worth: Worth, request: int, steps: int, dear: float) -> list[list[str]]:
    """Who is asked in each step of a text: "cheap" always gains half the speed of plain decoding, and "dear" this."""
    asked = []
    for _ in range(steps):
        names = worth.asked(request, ["dear", "cheap"], 1, 1.0)
        speeds = {name: 1.0 + {"dear": dear, "cheap": 0.5}[name] for name in names}
        worth.promised(request, speeds, 1.0)
        for name, speed in speeds.items():
            if len(names) == 2:
                worth.adds(request, name, max(speed / min(speeds.values()) - 1.0, 0.0))
        asked.append(names)
    return asked


def test_what_a_text_ended_with_is_not_what_the_next_one_begins_with() -> None:
    """The best drafter gained nothing in the last steps of a text. It is asked from the first step of the next one."""
    worth = drafted_before({"dear": 0.2, "cheap": 0.01})
    assert all("dear" in names for names in gains(worth, 0, 200, dear=1.0))
    assert "dear" not in gains(worth, 0, 30, dear=0.0)[-1]
    worth.end(0)
    assert all("dear" in names for names in gains(worth, 1, 20, dear=1.0))


def test_a_drafter_that_takes_little_is_asked_where_a_text_begins() -> None:
    """What it gained on other texts says little; one that takes long must be worth it."""
    worth = drafted_before({"leads": 0.01, "cheap": 0.01, "slow": 0.2})
    for request in range(40):
        for name, gain in (("leads", 1.0), ("cheap", 0.0), ("slow", 0.0)):
            worth.promised(request, {name: 1.0 + gain}, 1.0)
            worth.adds(request, name, gain)
    names = ["leads", "cheap", "slow"]
    steps = [worth.asked(99, names, 1, 1.0) for _ in range(3)]
    assert steps == [["leads", "cheap"], ["leads"], ["leads"]]
    assert worth.asked(98, names, 8, 1.0) == ["leads"]  # all of a batch wait for it


def test_a_drafter_that_wins_by_its_errors_is_found_out() -> None:
    """The steady drafter is right with probability 0.7, and says so. The wild one says 0.95 or 0.05 and is right with
    0.5 either way, its rate on average: it is chosen only where it says too much. Its nodes are of too many kinds for
    their rates to be learnt one by one. The text goes on with 5 always."""
    policy, draw, curve = SelectPolicy(CostCurve((1, 8, 16), (1.0, 1.4, 2.4))), random.Random(4), (1.0, 1.06)
    policy.clock = float
    candidates = tuple(Candidate(name, 1, trimmable=True) for name in ("steady", "wild"))
    chosen: list[str] = []
    for _ in range(1500):
        right = {"steady": draw.random() < 0.7, "wild": draw.random() < 0.5}
        says = {"steady": 0.7, "wild": draw.choice([0.95, 0.05])}
        kinds = {"steady": 0, "wild": draw.randrange(1024)}
        drafts = {
            name: Draft(name, DraftTree((5 if right[name] else 6,), (-1,), chances=(says[name],), kinds=(kinds[name],)))
            for name in right
        }
        [choices] = policy.choose([Ask(0, candidates)], Load(1, 1))
        asked = [choice.drafter for choice in choices]
        for name in asked:
            policy.drafted(name, 1, 1, 0.01)
        [pick] = policy.pick([Drafted(0, tuple(drafts[name] for name in asked))], Load(1, 1))
        assert isinstance(pick, Pick)
        policy.timed(Load(1 + len(pick.nodes), 1), curve[len(pick.nodes)])
        chosen.append(pick.drafter)
        path = (0,) if pick.nodes and right[pick.drafter] else ()
        policy.observe(0, Draft(pick.drafter, drafts[pick.drafter].tree.of(pick.nodes)), path, [5, 9] if path else [5])
    assert chosen[-500:].count("steady") > 400


def test_a_contest_is_judged_on_the_text_that_came() -> None:
    costs = [1.0, 1.1, 1.2, 1.3]
    for second, theirs in ((None, 1.0), ((GOOD, [0, 1, 2]), 3 / 1.3), ((GOOD, [0]), 2 / 1.1), ((BAD, [0, 1]), 1 / 1.2)):
        contest = Contest(0.5, second, costs)
        assert contest.kept(2, 2, (1, 2, 5)) == pytest.approx(3 / 1.2 - theirs)


def asked_after(times: list[float], gain: float) -> list[str]:
    """Of one drafter whose drafts took so long, in plain steps, and promise so much more than plain decoding."""
    worth = Worth()
    for seconds in times:
        assert worth.asked(0, ["head"], 1, 1.0) == ["head"]
        worth.took("head", seconds)
        worth.promised(0, {"head": 1.0 + gain}, 1.0)
    return worth.asked(0, ["head"], 1, 1.0)


def test_a_first_draft_that_took_long_does_not_count() -> None:
    assert asked_after([30.0] + [0.2] * (FIRST - 1), gain=0.5) == ["head"]
    assert asked_after([0.6] * FIRST, gain=0.5) == []


def test_what_one_request_gains_all_the_others_wait_for() -> None:
    worth = drafted_before({"d": 0.1})
    for _ in range(60):
        worth.promised(0, {"d": 1.3}, 1.0)
    assert worth.asked(0, ["d"], 2, 1.0)
    assert not worth.asked(0, ["d"], 8, 1.0)


def test_a_drafter_that_gains_less_and_takes_less_leads_where_many_wait() -> None:
    worth = drafted_before({"large": 0.02, "small": 0.005})
    for _ in range(60):
        worth.promised(0, {"large": 1.55, "small": 1.5}, 1.0)
        worth.adds(0, "large", 0.03)
        worth.adds(0, "small", 0.0)
    names = ["large", "small"]
    assert worth.asked(0, names, 1, 1.0) == names  # its first step
    assert worth.asked(0, names, 1, 1.0) == ["large"]
    assert worth.asked(0, names, 8, 1.0) == ["small"]


def test_requests_that_ended_leave_nothing_behind() -> None:
    policy = SelectPolicy(TYPICAL)
    for request in range(10_000):
        policy.choose([Ask(request, TWO.candidates)], Load(1, 1))
        policy.pick([Drafted(request, (Draft("good", GOOD), Draft("bad", BAD)))], Load(1, 1))
        if request % 2:
            policy.observe(request, Draft("good", GOOD), [], (4,))
        policy.end(request)
    held = [value for value in vars(policy).values() if isinstance(value, dict)]
    held += [value for value in vars(policy._worth).values() if isinstance(value, dict)]
    held += [policy._worth._alone.own, policy._worth._beyond.own]
    assert all(len(each) <= 8 for each in held)


class HalfDrafter(Drafter):
    """Knows a text, and says so on one half of its positions."""

    def __init__(self, name: str, text: list[int], half: int) -> None:
        super().__init__(4)
        self.name, self._text, self._half = name, text, half  # type: ignore[misc]

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        return [self._propose(len(request.tokens), request.max_depth) for request in requests]

    def _propose(self, at: int, depth: int) -> DraftTree:
        right = self._text[at : at + min(depth, 4)]
        known = at // 20 % 2 == self._half
        return DraftTree.chain(right if known else [token ^ 1 for token in right])


class ByTheCurve(SelectPolicy):
    """Passes take what the curve says, and drafting next to nothing: a tiny model's own times are noise."""

    def drafted(self, drafter: str, requests: int, levels: int, seconds: float) -> None:
        super().drafted(drafter, requests, levels, 1e-5 * requests)

    def timed(self, load: Load, seconds: float) -> None:
        super().timed(load, TYPICAL(load.rows, load.cached, load.requests))


def test_two_drafters_that_know_half_a_text_each_are_as_good_as_one_that_knows_it_all() -> None:
    params = SamplingParams(max_tokens=240)
    [plain] = run(small_engine(NoDrafter(), num_blocks=512), [[1, 2]], params)
    halves = [HalfDrafter("even", plain.tokens, 0), HalfDrafter("odd", plain.tokens, 1)]
    [both] = run(small_engine([*halves, PoisonDrafter()], policy=ByTheCurve(TYPICAL), num_blocks=512), [[1, 2]], params)
    [best] = run(small_engine(halves[:1], policy=ByTheCurve(TYPICAL), num_blocks=512), [[1, 2]], params)
    assert both.output == best.output == plain.output
    assert both.stats.mean_accepted_length > 1.25 * best.stats.mean_accepted_length


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_text_is_that_of_plain_decoding(temperature: float, seed: int) -> None:
    draw = random.Random(seed)
    prompts = [[draw.randrange(8) for _ in range(draw.randint(1, 12))] for _ in range(4)]
    params = [SamplingParams(max_tokens=24, temperature=temperature, seed=each) for each in range(4)]
    drafters = [NgramDrafter(), PoisonDrafter(), OracleDrafter(3), NoDrafter()]
    engine = small_engine(drafters, "gumbel" if temperature else "auto", policy=SelectPolicy(TYPICAL))
    plain = small_engine(NoDrafter(), "gumbel" if temperature else "auto")
    assert outputs(run(engine, prompts, params)) == outputs(run(plain, prompts, params))
    assert engine.drafting.faults == {}
