"""Policies that learn from the speed of steps: in a world of known speeds, with requests that end at any moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from specdec import ConfigError, SamplingParams
from specdec.policy.bandit import NOBODY, BanditPolicy, Exp3Policy, UcbPolicy
from specdec.policy.base import Ask, Candidate, Draft, Drafted, Load, Pick
from specdec.policy.curve import CostCurve, LiveCurve
from specdec.policy.experts import WEIGHER, Exp4Policy
from specdec.policy.hedge import HedgePolicy, Part, Pending
from specdec.policy.product import ProductPolicy
from specdec.policy.reward import RelativeSpeed
from specdec.verify.tree import DraftTree
from tests.engines import DRAFTERS, NonsenseDrafter, ProphetDrafter, outputs, run, small_engine

LEARNERS: dict[str, Callable[..., ProductPolicy]] = {
    "exp3": Exp3Policy,
    "ucb": UcbPolicy,
    "exp4": Exp4Policy,
    "hedge": HedgePolicy,
}
learners = pytest.mark.parametrize("name", LEARNERS)
CURVE = CostCurve((1, 8, 16), (1.0, 1.4, 2.4))
TREE = DraftTree.chain([5, 6, 7])


class World:
    """Drafters of three tokens which are right up to a fixed length, and take fixed times. All texts count upwards.

    Args:
        policy: decides.
        right: drafter → tokens of each of its drafts that are right.
        prices: drafter → seconds of each of its drafts.
    """

    def __init__(self, policy: ProductPolicy, right: dict[str, int], prices: dict[str, float]) -> None:
        self.policy, self.right, self.prices = policy, right, prices
        self.candidates = tuple(Candidate(name, 3, trimmable=True) for name in right)
        self.length = Counter[int]()
        self.verified = Counter[str]()
        self.seconds = 0.0

    def step(self, requests: tuple[int, ...] = (0,), aborted: tuple[int, ...] = ()) -> None:
        """One step; requests that are aborted end while the pass runs."""
        load = Load(len(requests), len(requests))
        chosen = self.policy.choose([Ask(request, self.candidates) for request in requests], load)
        asked = {r: [one.drafter for one in each] for r, each in zip(requests, chosen, strict=True)}
        for drafter, price in ((name, self.prices.get(name, 0.0)) for name in self.right):
            count = sum(drafter in names for names in asked.values())
            if count:
                self.policy.drafted(drafter, count, 3, count * price)
                self.seconds += count * price
        drafted = [Drafted(r, tuple(self.draft(r, name) for name in names)) for r, names in asked.items() if names]
        picks = dict(zip([one.request_id for one in drafted], self.policy.pick(drafted, load), strict=True))
        parts = {r: pick for r, pick in picks.items() if isinstance(pick, Pick) and pick.nodes}
        rows = load.rows + sum(len(pick.nodes) for pick in parts.values())
        self.policy.timed(Load(rows, load.requests), CURVE(rows))
        self.seconds += CURVE(rows)
        for request in requests:
            if request in aborted:
                self.policy.end(request)
            else:
                self.settle(request, parts.get(request))

    def draft(self, request: int, drafter: str) -> Draft:
        next_token = self.length[request]
        return Draft(drafter, DraftTree.chain(next_token + i if i < self.right[drafter] else 10**6 for i in range(3)))

    def settle(self, request: int, pick: Pick | None) -> None:
        draft = Draft("", DraftTree())
        if pick is not None:
            draft = Draft(pick.drafter, self.draft(request, pick.drafter).tree.of(pick.nodes))
        path = range(min(len(draft.tree), self.right.get(draft.drafter, 0)))
        self.verified[draft.drafter or NOBODY] += 1
        tokens = [self.length[request] + i for i in range(len(path) + 1)]
        self.length[request] += len(tokens)
        self.policy.observe(request, draft, tuple(path), tokens)


@learners
def test_the_fastest_drafter_is_found_and_it_is_not_the_one_with_the_longest_drafts(name: str) -> None:
    """Four tokens in 1 + 3 · 0.057 + 2 s, against three in 1.17 s."""
    world = World(LEARNERS[name](CURVE, ceiling=3.0), {"long": 3, "fast": 2, "bad": 0}, {"long": 2.0})
    for _ in range(700):
        world.step()
    world.verified.clear()
    for _ in range(200):
        world.step()
    assert world.verified["fast"] > 140
    assert world.verified["fast"] > 4 * world.verified["long"]


@learners
def test_where_nobody_is_right_it_learns_to_decode_plainly(name: str) -> None:
    world = World(LEARNERS[name](CURVE, ceiling=2.0), {"bad": 0, "worse": 0}, {"worse": 1.0})
    for _ in range(900):
        world.step()
    before, world.seconds = world.seconds, 0.0
    for _ in range(100):
        world.step()
    assert before > 0
    assert world.seconds < 120  # a third of the steps with `worse` would make it 133


@learners
def test_a_request_that_ends_during_the_pass_teaches_nothing(name: str) -> None:
    policy = LEARNERS[name](CURVE)
    world = World(policy, {"a": 2, "b": 0}, {})
    for _ in range(5):
        world.step()
    before = known(policy)
    for _ in range(50):
        world.step((1,), aborted=(1,))
    assert known(policy) == before
    world.step((0, 2, 3), aborted=(2,))
    world.step((0, 3))
    assert count(policy) == count_of(before) + 4
    assert not policy._shown
    kept = [vars(policy).get(name) for name in ("_taken", "_followed", "_begun", "_pending")]
    assert [each for each in kept if each] == []


def known(policy: ProductPolicy) -> Any:
    """All that the bandit or the experts know."""
    if isinstance(policy, Exp4Policy):
        return dict(policy._experts.losses), policy._experts.steps
    if isinstance(policy, HedgePolicy):
        losses = dict(policy._experts.losses)
        return losses, round(losses.get(NOBODY, 0.0) / 0.5)  # plain decoding loses 1 - 1/2 in every step
    if isinstance(policy, Exp3Policy):
        return {number: (dict(one.losses), one.steps) for number, one in policy._learners.items()}
    assert isinstance(policy, UcbPolicy)
    return {number: (dict(one.means), dict(one.counts)) for number, one in policy._learners.items()}


def count_of(what: Any) -> int:
    """Steps that were learnt from."""
    if isinstance(what, tuple):
        return int(what[1])
    return sum(sum(steps.values()) if isinstance(steps, dict) else steps for _, steps in what.values())


def count(policy: ProductPolicy) -> int:
    return count_of(known(policy))


@pytest.mark.parametrize("make", [Exp3Policy, UcbPolicy])
def test_requests_may_learn_apart_and_are_forgotten(make: Callable[..., BanditPolicy]) -> None:
    world = World(make(CURVE, per_request=True), {"a": 2, "b": 0}, {})
    for request in range(10_000):
        world.step((request,))
        assert known(world.policy).keys() == {request}
        assert count(world.policy) == 1
        world.policy.end(request)
    assert known(world.policy) == {}


@pytest.mark.slow
@learners
def test_nothing_grows_over_ten_thousand_requests(name: str) -> None:
    policy = LEARNERS[name](CURVE)
    world = World(policy, {"a": 2, "b": 0}, {})
    sizes = set()
    for request in range(10_000):
        world.step((request,))
        policy.end(request)
        if request >= 100:
            sizes.add(tuple(len(each) for each in vars(policy).values() if isinstance(each, dict)))
    assert len(sizes) == 1


def test_experts_that_keep_to_a_silent_drafter_name_nobody() -> None:
    policy = Exp4Policy(CURVE)
    candidates = (Candidate("a", 3, trimmable=True), Candidate("silent", 3, trimmable=True))
    policy.choose([Ask(0, candidates)], Load(1, 1))
    policy.pick([Drafted(0, (Draft("a", TREE),))], Load(1, 1))
    [followed] = policy._followed.values()
    assert followed.advice == {NOBODY: NOBODY, "a": "a", "silent": NOBODY, WEIGHER: "a"}


def test_a_drafter_that_draws_is_an_arm_too() -> None:
    policy = UcbPolicy(CURVE)
    candidates = (Candidate("table", 3, trimmable=True), Candidate("model", 3))
    asked = Counter[str]()
    for _ in range(30):
        [chosen] = policy.choose([Ask(0, candidates)], Load(1, 1))
        for one in chosen:
            asked[one.drafter] += 1
            policy.drafted(one.drafter, 1, 2, 0.01)
        model = any(one.drafter == "model" for one in chosen)
        draft = Draft("model", TREE) if model else Draft("", DraftTree())
        policy.timed(Load(4 if model else 1, 1), CURVE(4 if model else 1))
        policy.observe(0, draft, (0, 1, 2) if model else (), [5, 6, 7, 9] if model else [9])
    assert asked["model"] > 15


def test_a_step_is_judged_when_every_draft_has_left_the_text_or_ended() -> None:
    """Plain takes 1 s, the long draft 1.5 s, the short one 1.25 s. The text goes on with 5 6 7 8."""
    parts = {
        NOBODY: Part(DraftTree(), 1.0),
        "long": Part(DraftTree.chain([5, 6, 7]), 1.5),
        "short": Part(DraftTree.chain([4]), 1.25),
    }
    step = Pending({"x": "long"}, parts, 1.0)
    seen = []
    for token in (5, 6, 7, 8):
        step.tokens.append(token)
        seen.append(step.known)
    assert seen == [False, False, False, True]
    assert step.speeds() == pytest.approx({NOBODY: 1.0, "long": 4 / 1.5, "short": 1 / 1.25})


def test_what_was_not_verified_is_judged_too() -> None:
    """Only the good draft is ever verified; what is known of the bad one comes from the text."""
    policy = HedgePolicy(CURVE, ceiling=3.0)
    candidates = tuple(Candidate(name, 3, trimmable=True) for name in ("good", "bad"))
    drafts = (Draft("good", TREE), Draft("bad", DraftTree.chain([1, 1, 1])))
    for _ in range(30):
        policy.choose([Ask(0, candidates)], Load(1, 1))
        policy.drafted("good", 1, 3, 0.0)
        policy.pick([Drafted(0, drafts)], Load(1, 1))
        policy.timed(Load(4, 1), CURVE(4))
        policy.observe(0, drafts[0], (0, 1, 2), [5, 6, 7, 9])
    losses = policy._experts.losses
    assert losses["bad"] > losses[NOBODY] > losses["good"]  # rows for nothing; no rows; four tokens


def test_a_text_that_ends_early_leaves_nothing_behind() -> None:
    policy = HedgePolicy(CURVE)
    policy.survival.observe(0, Draft("a", TREE), (0, 1, 2), (0, 1, 2))
    candidates = (Candidate("a", 3, trimmable=True),)
    for _ in range(3):
        policy.choose([Ask(0, candidates)], Load(1, 1))
        policy.pick([Drafted(0, (Draft("a", TREE),))], Load(1, 1))
        policy.timed(Load(1, 1), CURVE(1))
        policy.observe(0, Draft("", DraftTree()), (), [5])
    assert policy._pending
    policy.end(0)
    assert not policy._pending
    assert not policy._begun


def test_rewards_by_hand() -> None:
    """A step that takes 1 s without drafts takes 1.3 s, and 0.2 s to draft."""
    speed = RelativeSpeed(ceiling=4.0)
    speed.begin(1.0)
    speed.drafted(0.05)
    speed.drafted(0.15)
    speed.passed(1.3)
    assert [speed.of(tokens) for tokens in (1, 3, 6, 60)] == pytest.approx([1 / 6, 0.5, 1.0, 1.0])
    speed.begin(1.0)
    speed.passed(1.0)
    assert speed.of(1) == pytest.approx(0.25)  # plain decoding
    assert RelativeSpeed().of(5) == 0.0  # before any step


@learners
@pytest.mark.parametrize("ceiling", [0.9, 0, -1, float("nan"), float("inf"), "4", True, None], ids=repr)
def test_a_ceiling_is_a_number_from_1_on(name: str, ceiling: Any) -> None:
    with pytest.raises(ConfigError, match=r"ceiling = .* cannot work. Give a finite number >= 1"):
        LEARNERS[name](CURVE, ceiling=ceiling)
    assert LEARNERS[name](CURVE, ceiling=np.float32(2))


@pytest.mark.parametrize("name", ["exp3", "exp4", "hedge"])
@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "0", True, None], ids=repr)
def test_a_seed_is_an_integer(name: str, seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"seed = .* cannot work. Give an integer"):
        LEARNERS[name](CURVE, seed=seed)


@pytest.mark.parametrize("make", [Exp3Policy, UcbPolicy])
@pytest.mark.parametrize("apart", [1, "yes", None], ids=repr)
def test_learning_apart_is_yes_or_no(make: Callable[..., BanditPolicy], apart: Any) -> None:
    with pytest.raises(ConfigError, match=r"per_request = .* cannot work. Give True or False"):
        make(CURVE, per_request=apart)


@pytest.mark.parametrize("name", ["exp3", "exp4", "hedge"])
def test_a_seed_fixes_every_choice(name: str) -> None:
    def verified(seed: int) -> list[str]:
        world = World(LEARNERS[name](CURVE, seed=seed), {"a": 2, "b": 1}, {})
        found = []
        for _ in range(60):
            world.step()
            found += [*world.verified]
            world.verified.clear()
        return found

    assert verified(1) == verified(1) != verified(2)


@learners
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_texts_are_those_of_plain_decoding(name: str, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With drafters of all sorts as arms, in a batch."""
    monkeypatch.setattr(LiveCurve, "observe", lambda self, *seen: None)  # a tiny model's passes cost nothing
    prompts = [[1, 2, 3, 1, 2, 3, 1], [5], [7, 8, 7, 8, 7]]
    params = [SamplingParams(max_tokens=30, temperature=temperature, seed=seed) for seed in range(3)]
    rule = "auto" if temperature == 0 else "gumbel"
    plain = run(small_engine(DRAFTERS["none"](), rule), prompts, params)
    arms = [ProphetDrafter([one.tokens for one in plain]), DRAFTERS["ngram"](), NonsenseDrafter(), DRAFTERS["model"]()]
    free = CostCurve((1, 100), (1.0, 1.2))
    requests = run(small_engine(arms, rule, policy=LEARNERS[name](free)), prompts, params)
    assert outputs(requests) == outputs(plain)
    assert sum(one.stats.drafted_tokens for one in requests) > 0
