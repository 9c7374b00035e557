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
from specdec.policy.product import ProductPolicy
from specdec.policy.reward import RelativeSpeed
from specdec.verify.tree import DraftTree
from tests.engines import DRAFTERS, NonsenseDrafter, ProphetDrafter, outputs, run, small_engine

LEARNERS: dict[str, Callable[..., ProductPolicy]] = {"exp3": Exp3Policy, "ucb": UcbPolicy, "exp4": Exp4Policy}
learners = pytest.mark.parametrize("name", LEARNERS)
CURVE = CostCurve((1, 8, 16), (1.0, 1.4, 2.4))
TREE = DraftTree.chain([5, 6, 7])


class World:
    """Drafters of three tokens whose drafts are accepted up to a fixed length, and take fixed times.

    Args:
        policy: decides.
        accepted: drafter → tokens of each of its drafts that are accepted.
        prices: drafter → seconds of each of its drafts.
    """

    def __init__(self, policy: ProductPolicy, accepted: dict[str, int], prices: dict[str, float]) -> None:
        self.policy, self.accepted, self.prices = policy, accepted, prices
        self.candidates = tuple(Candidate(name, 3, trimmable=True) for name in accepted)
        self.verified = Counter[str]()
        self.seconds = 0.0

    def step(self, requests: tuple[int, ...] = (0,), aborted: tuple[int, ...] = ()) -> None:
        """One step; requests that are aborted end while the pass runs."""
        load = Load(len(requests), len(requests))
        chosen = self.policy.choose([Ask(request, self.candidates) for request in requests], load)
        asked = {r: [one.drafter for one in each] for r, each in zip(requests, chosen, strict=True)}
        drafting = 0.0
        for drafter in self.accepted:
            count = sum(drafter in names for names in asked.values())
            if count:
                self.policy.drafted(drafter, count, 3, count * self.prices.get(drafter, 0.0))
                drafting += count * self.prices.get(drafter, 0.0)
        drafted = [Drafted(r, tuple(Draft(name, TREE) for name in names)) for r, names in asked.items() if names]
        picks = dict(zip([one.request_id for one in drafted], self.policy.pick(drafted, load), strict=True))
        parts = {r: pick for r, pick in picks.items() if isinstance(pick, Pick) and pick.nodes}
        rows = load.rows + sum(len(pick.nodes) for pick in parts.values())
        self.policy.timed(Load(rows, load.requests), CURVE(rows))
        self.seconds += CURVE(rows) + drafting
        for request in requests:
            if request in aborted:
                self.policy.end(request)
                continue
            pick = parts.get(request)
            draft = Draft("", DraftTree()) if pick is None else Draft(pick.drafter, TREE.of(pick.nodes))
            path = tuple(range(min(len(draft.tree), self.accepted.get(draft.drafter, 0))))
            self.verified[draft.drafter or NOBODY] += 1
            self.policy.observe(request, draft, path, [*(draft.tree.tokens[node] for node in path), 9])


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
    assert world.seconds < 112


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
    assert count(policy) == count_of(before) + 2
    assert not policy._shown
    assert not (policy._taken if isinstance(policy, BanditPolicy) else policy._followed)  # type: ignore[attr-defined]


def known(policy: ProductPolicy) -> Any:
    """All that the bandit or the experts know."""
    if isinstance(policy, Exp4Policy):
        return dict(policy._experts.losses), policy._experts.steps
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
    assert followed.advice == {
        NOBODY: {NOBODY: 1.0}, "a": {"a": 1.0}, "silent": {NOBODY: 1.0}, WEIGHER: {"a": 1.0},
    }  # fmt: skip


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


@pytest.mark.parametrize("name", ["exp3", "exp4"])
@pytest.mark.parametrize("seed", [-1, 2**64, 0.5, "0", True, None], ids=repr)
def test_a_seed_is_an_integer(name: str, seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"seed = .* cannot work. Give an integer"):
        LEARNERS[name](CURVE, seed=seed)


@pytest.mark.parametrize("make", [Exp3Policy, UcbPolicy])
@pytest.mark.parametrize("apart", [1, "yes", None], ids=repr)
def test_learning_apart_is_yes_or_no(make: Callable[..., BanditPolicy], apart: Any) -> None:
    with pytest.raises(ConfigError, match=r"per_request = .* cannot work. Give True or False"):
        make(CURVE, per_request=apart)


@pytest.mark.parametrize("name", ["exp3", "exp4"])
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
