"""Drafts merged into one tree: which nodes it has, what is learnt of them, and who is asked."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from specdec import SamplingParams
from specdec.drafters.base import Drafter, DraftRequest
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.recycling import RecyclingDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.policy.base import Ask, Candidate, Draft, Drafted, Load, Pick
from specdec.policy.curve import CostCurve
from specdec.policy.merge import MergePolicy
from specdec.policy.product import Weighed
from specdec.policy.select import SelectPolicy
from specdec.testing import PoisonDrafter
from specdec.verify.tree import ROOT, DraftTree
from tests.engines import outputs, run, small_engine

FREE = CostCurve((1, 64), (1.0, 1.0001))
ASK = Ask(0, tuple(Candidate(name, 3, True) for name in ("a", "b", "c")))
CHAIN, FORK = DraftTree.chain([1, 2, 3]), DraftTree((1, 4, 2, 5), (ROOT, ROOT, 0, 1))


def merged(drafts: dict[str, DraftTree], room: int = 64, policy: MergePolicy | None = None) -> Draft:
    """What is verified where rows cost nothing."""
    policy = policy or MergePolicy(FREE)
    policy.choose([ASK], Load(1, 1))
    [pick] = policy.pick([Drafted(0, tuple(Draft(*each) for each in drafts.items()), room)], Load(1, 1))
    assert isinstance(pick, Draft)
    return pick


def paths(tree: DraftTree) -> set[tuple[int, ...]]:
    return {tuple(tree.tokens[each] for each in tree.path(node)) for node in range(len(tree))}


def test_a_merged_tree_has_every_path_once() -> None:
    tree = merged({"a": CHAIN, "b": FORK}).tree
    assert paths(tree) == paths(CHAIN) | paths(FORK)
    assert len(tree) == 5


def test_it_goes_by_the_names_of_those_whose_nodes_are_verified() -> None:
    drafts = {"a": CHAIN, "b": FORK, "c": DraftTree.chain([7])}
    assert merged(drafts).drafter == "a+b+c"
    sure = {"a": DraftTree((1,), (ROOT,), chances=(0.9,)), "b": DraftTree((7,), (ROOT,), chances=(0.001,))}
    dear = MergePolicy(CostCurve((1, 2, 3, 64), (1.0, 1.01, 3.0, 99.0)))
    assert merged(sure, policy=dear).drafter == "a"


def test_where_there_is_little_room_the_likeliest_nodes_are_kept() -> None:
    drafts = {
        "a": DraftTree((1, 2), (ROOT, 0), chances=(0.9, 0.8)),
        "b": DraftTree((4, 5), (ROOT, 0), chances=(0.5, 0.9)),
    }
    assert paths(merged(drafts, room=3).tree) == {(1,), (1, 2), (4,)}
    assert paths(merged(drafts, room=2).tree) == {(1,), (1, 2)}


def chance(policy: MergePolicy, drafts: dict[str, DraftTree]) -> list[float]:
    """Of the merged tree's nodes, in its order."""
    policy._rooms = {0: 64}
    weighed = [policy._weighed(0, Draft(*each)) for each in drafts.items()]
    assert all(isinstance(each, Weighed) for each in weighed)
    return list(policy._merged(0, weighed).wish.survivals)


def test_it_is_learnt_that_drafters_who_agree_are_right_and_that_one_alone_is_not() -> None:
    """Each drafter is right half the time, whenever the other says the same, and never otherwise."""
    policy, draw = MergePolicy(FREE), random.Random(0)
    agree = {"a": DraftTree.chain([1]), "b": DraftTree.chain([1])}
    apart = {"a": DraftTree.chain([1]), "b": DraftTree.chain([2])}
    for _ in range(400):
        together = draw.random() < 0.5
        policy.choose([ASK], Load(1, 1))
        drafts = tuple(Draft(*each) for each in (agree if together else apart).items())
        [pick] = policy.pick([Drafted(0, drafts, 64)], Load(1, 1))
        verified = pick if isinstance(pick, Draft) else Draft("", DraftTree())
        path = [0] if together and len(verified.tree) else []
        policy.observe(0, verified, path, (1, 3) if together else (9,))
    assert chance(policy, agree)[0] > 0.9
    assert max(chance(policy, apart)) < 0.1
    assert policy.survival.survivals(0, Draft("a", agree["a"]))[0] == pytest.approx(0.5, abs=0.15)


def test_a_drafter_that_adds_nothing_is_seldom_asked() -> None:
    """One that always says what another says, and costs as much as it could bring."""
    policy, asked = MergePolicy(CostCurve((1, 8, 64), (1.0, 1.1, 9.0))), []
    for _ in range(600):
        [choices] = policy.choose([ASK], Load(1, 1))
        names = [choice.drafter for choice in choices]
        drafts = {name: {"a": CHAIN, "b": CHAIN, "c": DraftTree.chain([6, 6])}[name] for name in names}
        for name in names:
            policy.drafted(name, 1, 3, 0.02)
        verified = Draft("", DraftTree())
        if drafts:
            [pick] = policy.pick([Drafted(0, tuple(Draft(*each) for each in drafts.items()), 64)], Load(1, 1))
            if isinstance(pick, Draft):
                verified = pick
            elif isinstance(pick, Pick) and pick.nodes:
                verified = Draft(pick.drafter, drafts[pick.drafter].of(pick.nodes))
        path = [node for node, token in enumerate(verified.tree.tokens) if token in (1, 2, 3)]
        policy.observe(0, verified, path, (1, 2, 3, 4))
        policy.timed(Load(1 + len(verified.tree), 1), 1.1)
        asked.append(names)
    late = asked[300:]
    assert all("a" in names or "b" in names for names in late)
    assert sum("a" in names and "b" in names for names in late) < 0.2 * len(late)
    assert sum("c" in names for names in late) < 0.1 * len(late)


def test_requests_that_ended_leave_nothing_behind() -> None:
    policy = MergePolicy(FREE)
    for request in range(2000):
        ask = Ask(request, ASK.candidates)
        policy.choose([ask], Load(1, 1))
        [pick] = policy.pick([Drafted(request, (Draft("a", CHAIN), Draft("b", FORK)), 64)], Load(1, 1))
        if request % 2 and isinstance(pick, Draft):
            policy.observe(request, pick, [], (9,))
        policy.end(request)
    held = [value for value in vars(policy).values() if isinstance(value, dict)]
    held += [policy._worth._alone.own, policy._worth._beyond.own]
    assert all(len(each) <= 8 for each in held)


class CoinDrafter(Drafter):
    """Knows a text. A coin for each position tells whether it says so; that of another one may fall the other way."""

    def __init__(self, name: str, text: list[int], side: bool) -> None:
        super().__init__(4)
        self.name, self._text, self._side = name, text, side  # type: ignore[misc]

    def max_nodes(self, max_depth: int) -> int:
        return 2 * max_depth  # room for that of another one

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        return [self._propose(len(request.tokens), request.max_depth) for request in requests]

    def _propose(self, at: int, depth: int) -> DraftTree:
        right = self._text[at : at + min(depth, 4)]
        known = (random.Random(at).random() < 0.5) == self._side
        return DraftTree.chain(right if known else [token ^ 1 for token in right])


def test_where_nobody_knows_who_is_right_both_are_verified() -> None:
    """What `select` cannot tell: at every position one of two drafters is right, and looks like the other one."""
    params, sizes = SamplingParams(max_tokens=200), {"num_blocks": 512}
    [plain] = run(small_engine(NoDrafter(), **sizes), [[1, 2]], params)
    tau = {}
    for policy in (MergePolicy(FREE), SelectPolicy(FREE)):
        coins = [CoinDrafter(name, plain.tokens, side) for name, side in (("heads", True), ("tails", False))]
        [one] = run(small_engine(coins, policy=policy, **sizes), [[1, 2]], params)
        assert one.output == plain.output
        tau[policy.name] = one.stats.mean_accepted_length
    assert tau["merge"] > 4.5
    assert tau["select"] < 3.8


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_text_is_that_of_plain_decoding(temperature: float, seed: int) -> None:
    draw = random.Random(seed)
    prompts = [[draw.randrange(8) for _ in range(draw.randint(1, 12))] for _ in range(4)]
    params = SamplingParams(max_tokens=40, temperature=temperature, seed=seed)
    rule = "gumbel" if temperature else "auto"
    drafters = [NgramDrafter(4), SuffixDrafter(), RecyclingDrafter(), PoisonDrafter(seed)]
    requests = run(small_engine(drafters, rule=rule, policy=MergePolicy(FREE)), prompts, params)
    assert outputs(requests) == outputs(run(small_engine(NoDrafter(), rule=rule), prompts, params))
    names = {one.name for request in requests for one in request.stats.by_drafter}
    assert any("+" in name for name in names)
