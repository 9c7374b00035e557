"""What is worth drafting, by hand-made costs and acceptance; and that the text does not change."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import count, product
from pathlib import Path

import pytest

from specdec import SamplingParams, kept
from specdec.policy.base import Ask, Candidate, Draft, Drafted, Load, Pick
from specdec.policy.cost import cost_curve
from specdec.policy.curve import ROWS, CostCurve, LiveCurve
from specdec.policy.product import ProductPolicy
from specdec.verify.tree import DraftTree
from tests.cachefolders import damaged, unwritable
from tests.engines import DRAFTERS, NonsenseDrafter, ProphetDrafter, add, drain, outputs, run, small_engine
from tests.tiny import llama

FREE = CostCurve((1, 100), (1.0, 1.0))
PROPORTIONAL = CostCurve((1, 100), (1.0, 100.0))
STEEP = CostCurve((1, 8), (1.0, 3.0))
TYPICAL = CostCurve((1, 8, 16, 64), (1.0, 1.1, 1.5, 5.0))
CHAIN = DraftTree.chain([1, 2, 3, 4])


def depths(
    policy: ProductPolicy, wanted: list[tuple[int, int, int]], rows: int, requests: int, cached: int = 0
) -> list[int]:
    """How much the policy keeps of the chains (request, kind, length) of one drafter."""
    chains = [
        Drafted(
            request, (Draft("d", DraftTree(CHAIN.tokens[:length], CHAIN.parents[:length], kinds=kinds(kind)[:length])),)
        )
        for request, kind, length in wanted
    ]
    picks = policy.pick(chains, Load(rows, requests, cached))
    assert all(isinstance(pick, Pick) and pick.nodes == tuple(range(len(pick.nodes))) for pick in picks)
    return [len(pick.nodes) for pick in picks if isinstance(pick, Pick)]


def kinds(kind: int) -> tuple[int, ...]:
    """Of the four nodes of a chain."""
    return tuple(range(10 * kind, 10 * kind + 4))


def taught(curve: CostCurve, accepted: dict[int, int], times: int = 60, kind: int = 0) -> ProductPolicy:
    """A policy that has seen every request accept that many of four drafted tokens, again and again."""
    policy = ProductPolicy(curve)
    teach(policy, accepted, times, kind)
    return policy


def teach(policy: ProductPolicy, accepted: dict[int, int], times: int = 60, kind: int = 0) -> None:
    chain = replace(CHAIN, kinds=kinds(kind))
    for _ in range(times):
        for request, number in accepted.items():
            policy.observe(request, Draft("d", chain), range(number), (*chain.tokens[:number], 99))


def test_a_curve_has_straight_lines_between_its_points_and_beyond() -> None:
    curve = CostCurve((1, 4, 8), (1.0, 1.3, 2.3))
    assert [curve(n) for n in (1, 2, 4, 6, 8, 12)] == pytest.approx([1.0, 1.1, 1.3, 1.8, 2.3, 3.3])


def test_free_rows_are_all_used_and_rows_at_full_price_never() -> None:
    wanted = [(0, 0, 4), (1, 0, 2)]
    assert depths(ProductPolicy(FREE), wanted, 2, 2) == [4, 2]
    assert depths(taught(PROPORTIONAL, {0: 3, 1: 1}), wanted, 2, 2) == [0, 0]


def test_a_policy_that_leaves_most_drafts_out_says_so_and_why() -> None:
    wanted = [(0, 0, 4), (1, 0, 2)]
    generous, strict = ProductPolicy(FREE), taught(PROPORTIONAL, {0: 3, 1: 1})
    depths(generous, wanted, 2, 2)
    depths(strict, wanted, 2, 2)
    depths(strict, wanted, 2, 2)
    assert generous.account() == ""
    assert "policy=product left out 4 of 4 drafts" in strict.account()
    assert "1.50 times as long here" in strict.account()  # three rows for two


def test_what_is_accepted_is_drafted_and_what_is_refused_is_not() -> None:
    controller = taught(CostCurve((1, 10), (1.0, 2.2)), {0: 4, 1: 0})
    for _ in range(5):
        [good, bad] = depths(controller, [(0, 0, 4), (1, 0, 4)], 2, 2)
        assert (good, bad) == (4, 0)


def test_the_choice_is_the_best_of_all_choices() -> None:
    """Against brute force over every pair of depths: the largest product of all requests' speeds."""
    controller = taught(TYPICAL, {0: 2, 1: 1}, times=7)
    rates = {(r, d): controller.survival.rate(r, "d", d, 0.6) for r in (0, 1) for d in range(4)}

    def fairness(pair: tuple[int, ...], others: int) -> float:
        product_of_tokens = 1.0
        for request, depth in enumerate(pair):
            tokens = chance = 1.0
            for d in range(depth):
                chance *= rates[request, d]
                tokens += chance
            product_of_tokens *= tokens
        return product_of_tokens / TYPICAL(others + 2 + sum(pair)) ** (others + 2)

    chosen = {others: tuple(depths(controller, [(0, 0, 4), (1, 0, 4)], others + 2, others + 2)) for others in range(12)}
    for others, found in chosen.items():
        best = max(product(range(5), repeat=2), key=lambda pair: fairness(pair, others))
        assert found == (best if fairness(best, others) > 1.03 ** (others + 2) * fairness((0, 0), others) else (0, 0))
    assert len(set(chosen.values())) > 2


def test_one_requests_gain_is_not_taken_from_the_others() -> None:
    """Four sure tokens for one of eight, at a pass of 1.3 instead of 1: 5 · (1 / 1.3)⁸ < 1."""
    assert depths(taught(STEEP, {0: 4}), [(0, 0, 4)], 1, 1) == [4]
    eight = CostCurve((8, 12), (1.0, 1.3))
    assert depths(taught(eight, {0: 4}), [(0, 0, 4)], 8, 8) == [0]


def test_kinds_of_drafts_are_told_apart() -> None:
    controller = taught(TYPICAL, {0: 4, 1: 4}, times=40)
    teach(controller, {0: 0, 1: 0}, times=40, kind=1)
    assert depths(controller, [(0, 0, 4), (1, 1, 4)], 22, 2) == [4, 0]


def test_what_a_drafter_takes_counts_from_its_first_draft_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count()
    monkeypatch.setattr("specdec.engine.drafting.perf_counter", lambda: float(next(clock)))  # every draft takes 1 s
    policy = ProductPolicy(FREE)
    engine = small_engine(DRAFTERS["model"](), policy=policy)
    add(engine, [1, 2, 3], SamplingParams(max_tokens=20))
    while not policy._levels["model"].seconds:
        engine.step()
    assert policy._levels["model"].seconds == pytest.approx(1.0)  # one level is tried at first


def test_requests_that_ended_are_forgotten() -> None:
    controller = taught(TYPICAL, {0: 0, 1: 4})
    controller.end(0)
    controller.end(99)
    assert controller.survival.requests == {1}


@pytest.mark.parametrize("drafter", [name for name in DRAFTERS if name != "none"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_is_the_same_with_and_without_control(drafter: str, temperature: float) -> None:
    prompts = [[1, 2, 3, 1, 2, 3, 1], [5], [7, 8, 7, 8, 7]]
    params = [SamplingParams(max_tokens=30, temperature=temperature, seed=seed) for seed in range(3)]
    rule = "auto" if temperature == 0 else "gumbel"
    free = run(small_engine(DRAFTERS[drafter](), rule), prompts, params)
    controlled = small_engine(DRAFTERS[drafter](), rule, policy=ProductPolicy(TYPICAL))
    assert outputs(run(controlled, prompts, params)) == outputs(free)


def test_nonsense_is_soon_given_up_and_prophecy_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(max_tokens=100)
    [plain] = run(small_engine(DRAFTERS["none"]()), [[1, 2]], params)
    monkeypatch.setattr(LiveCurve, "observe", lambda self, *seen: None)  # a tiny model's passes cost nothing
    [good] = run(small_engine(ProphetDrafter([plain.tokens]), policy=ProductPolicy(TYPICAL)), [[1, 2]], params)
    [bad] = run(small_engine(NonsenseDrafter(), policy=ProductPolicy(STEEP)), [[1, 2]], params)
    assert bad.output == good.output == plain.output
    assert bad.stats.drafted_tokens < 50  # 5 a step, 500, without control
    assert good.stats.mean_accepted_length == 5.0


def drawn(policy: ProductPolicy, accepted: int, first: float = 0.46) -> list[int]:
    """Depths of the chains of at most six that a policy asks for in 40 steps. The first draft takes some time. Then a
    token of a chain takes 0.46 of a pass. So many tokens of each chain are accepted."""
    candidate, depths = Candidate("d", 6), list[int]()
    for _ in range(40):
        [choices] = policy.choose([Ask(0, (candidate,))], Load(1, 1))
        depths.append(sum(choice.depth for choice in choices))
        if depths[-1]:
            policy.drafted("d", 1, depths[-1], 0.46 * depths[-1] if any(depths[:-1]) else first)
        tree = DraftTree.chain(range(depths[-1]))
        right = min(accepted, len(tree))
        policy.observe(0, Draft("d", tree), range(right), range(right + 1))
    return depths


def test_a_dear_chain_that_is_always_right_grows_to_its_full_length() -> None:
    """(1 + γ) / (1 + 0.46 γ) rises with γ, and the policy must find it out by itself."""
    assert set(drawn(ProductPolicy(CostCurve((1, 8), (1.0, 1.2))), 6)[-20:]) == {6}


def test_a_first_draft_that_takes_long_does_not_count() -> None:
    """It reads weights from memory that was never touched: 30 times as long here."""
    assert set(drawn(ProductPolicy(CostCurve((1, 8), (1.0, 1.2))), 6, first=14.0)[-20:]) == {6}


def test_a_dear_chain_is_no_longer_than_what_is_right_of_it() -> None:
    assert max(drawn(ProductPolicy(CostCurve((1, 8), (1.0, 1.2))), 2)[-20:]) == 2
    assert max(drawn(ProductPolicy(CostCurve((1, 8), (1.0, 1.2))), 0)[-20:]) <= 1


def test_a_rule_whose_text_depends_on_the_draft_is_left_alone() -> None:
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=3)
    [request] = run(small_engine(NonsenseDrafter(), "token", policy=ProductPolicy(PROPORTIONAL)), [[1, 2]], params)
    assert request.stats.drafted_tokens >= 60


def test_a_curve_of_another_day_is_soon_forgotten() -> None:
    """Kept on a busy machine, a pass seemed to cost the same with any number of rows."""
    stale = CostCurve(ROWS, tuple(0.3 + 0.001 * rows for rows in ROWS))

    def truth(rows: int) -> float:
        return 0.01 + 0.001 * rows

    live = LiveCurve(stale)
    for step in range(40):
        for rows in (1, 8, 30):
            live.observe(rows, truth(rows) * (20.0 if step == 20 else 1.0))  # once the machine was busy elsewhere
    for rows in (1, 8, 30):
        assert live(rows) == pytest.approx(truth(rows), rel=0.15)
    assert 0.01 < live(64) < 0.1  # not seen, but it moved along
    before = live(64)
    live.observe(500, 9.0)  # a prefill is not on the curve
    assert live(64) == before


QUIET = CostCurve(ROWS, (6.33, 6.33, 6.33, 6.91, 8.00, 8.86, 11.69, 14.72, 21.84, 28.20))
BUSY = CostCurve(ROWS, (7.53, 7.53, 7.55, 8.99, 11.08, 12.88, 19.33, 24.87, 37.18, 49.51))
"""Milliseconds of one model on one machine, when it had nothing else to do and when it had."""


@pytest.mark.parametrize("visited", [(1, 16), (2, 24), (12, 64)])
@pytest.mark.parametrize(
    "prior",
    [BUSY, QUIET, CostCurve(ROWS, tuple(1.6 * ms for ms in QUIET.seconds)),
     CostCurve(ROWS, tuple(6.33 + 1.6 * (ms - 6.33) for ms in QUIET.seconds))],
    ids=["busy", "sound", "all 1.6 times", "rows 1.6 times"],
)  # fmt: skip
def test_sizes_that_are_never_visited_follow_those_that_are(prior: CostCurve, visited: tuple[int, int]) -> None:
    """What more rows add to a pass may be wrong by another factor than the pass of one row."""
    live = LiveCurve(prior)
    for step in range(60):
        for rows in visited:
            live.observe(rows, (1.03 if step % 2 else 0.97) * QUIET(rows))
    for rows in range(1, 65):
        assert live(rows) == pytest.approx(QUIET(rows), rel=0.1)


def test_one_pass_that_was_held_up_moves_no_other_size() -> None:
    live = LiveCurve(QUIET)
    for rows in (1, 2) * 30:
        live.observe(rows, QUIET(rows))
    live.observe(48, 20 * QUIET(48))
    for rows in (1, 2, 8, 24):
        assert live(rows) == pytest.approx(QUIET(rows), rel=0.1)


def test_what_is_cached_costs_by_the_token() -> None:
    curve = CostCurve((1, 3), (1.0, 2.0), per_token=0.01)
    assert [curve(1, 0), curve(2, 100), curve(5, 50)] == pytest.approx([1.0, 2.5, 3.5])
    live = LiveCurve(curve)
    for _ in range(10):  # twice as slow, after texts of many lengths
        for rows, cached in ((1, 0), (1, 500), (2, 40), (2, 900)):
            live.observe(rows, 2 * curve(rows, cached), cached)
    assert live(2, 300) == pytest.approx(2 * curve(2, 300))


def test_rows_of_a_sequence_attend_to_what_is_cached_one_by_one() -> None:
    """Two sequences with 1000 tokens together, .001 for each, and .0002 for every row more than one of a sequence."""
    curve = CostCurve((1, 9), (1.0, 3.0), per_token=0.001, per_row_token=0.0002)
    assert curve(1, 1000) == pytest.approx(1.0 + 1.0)
    assert curve(5, 1000) == pytest.approx(2.0 + 1.0 + 4 * 0.2)
    assert curve(6, 1000, requests=2) == pytest.approx(2.25 + 1.0 + 2 * 0.2)
    live = LiveCurve(curve)
    assert live.costs(2, 4, 1000, requests=2) == pytest.approx([curve(rows, 1000, 2) for rows in range(2, 7)])
    for _ in range(10):
        for rows in (1, 5, 9):
            live.observe(rows, 3 * curve(rows, 700), 700)
    assert live(5, 100) == pytest.approx(3 * curve(5, 100))


def test_longer_texts_make_rows_dearer_where_each_attends_to_all() -> None:
    flat = CostCurve((1, 11), (1.0, 1.2), per_row_token=0.001)
    controller = taught(flat, {0: 1}, times=10)
    assert depths(controller, [(0, 0, 4)], 1, 1, cached=0) > depths(controller, [(0, 0, 4)], 1, 1, cached=900)


def test_longer_texts_make_rows_cheaper_beside_them() -> None:
    """Ten more rows double a pass after an empty text, and add a tenth to one after 900 tokens."""
    controller = taught(CostCurve((1, 11), (1.0, 2.0), per_token=0.01), {0: 1}, times=10)
    assert depths(controller, [(0, 0, 4)], 1, 1, cached=0) < depths(controller, [(0, 0, 4)], 1, 1, cached=900)


def test_a_controller_learns_what_passes_take() -> None:
    controller = taught(FREE, {0: 3})
    assert depths(controller, [(0, 0, 4)], 1, 1) == [4]
    for _ in range(40):
        for rows in (1, 2, 4, 8):
            controller.timed(Load(rows, 1), float(rows))
    assert depths(controller, [(0, 0, 4)], 1, 1) == [0]


def test_the_curve_is_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama(0)
    curve = cost_curve(model, tmp_path)
    assert curve.rows == ROWS
    assert list(curve.seconds) == sorted(curve.seconds)
    assert min(curve.seconds) > 0
    assert 0 <= curve.per_token < curve.seconds[0]
    assert 0 <= curve.per_row_token < curve.seconds[0]
    monkeypatch.setattr("specdec.policy.cost.measure", lambda model: pytest.fail("measured again"))
    assert cost_curve(model, tmp_path) == curve


def test_other_kernels_have_a_curve_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes may cost something else after an update."""
    model, measured = llama(0), iter([TYPICAL, STEEP])
    monkeypatch.setattr("specdec.policy.cost.measure", lambda model: next(measured))
    assert cost_curve(model, tmp_path) == TYPICAL
    monkeypatch.setattr("specdec.policy.cost.fingerprint", lambda: "other kernels")
    assert [cost_curve(model, tmp_path) for _ in range(2)] == [STEEP] * 2


def test_nothing_is_measured_before_the_first_step_and_then_once() -> None:
    measured: list[str] = []
    policy = ProductPolicy(lambda model: measured.append(model.name) or TYPICAL)  # type: ignore[func-returns-value]
    engine = small_engine(DRAFTERS["ngram"](), policy=policy)
    add(engine, [1, 2, 1, 2, 1], SamplingParams(max_tokens=20))
    assert measured == []
    drain(engine)
    assert measured == [engine.model.name]


def test_of_two_drafters_the_one_that_is_right_is_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveCurve, "observe", lambda self, *seen: None)  # a busy machine's clock is no part of it
    params = SamplingParams(max_tokens=120)
    [plain] = run(small_engine(DRAFTERS["none"]()), [[1, 2]], params)
    policy = ProductPolicy(TYPICAL)
    engine = small_engine([NonsenseDrafter(), ProphetDrafter([plain.tokens])], policy=policy)
    [request] = run(engine, [[1, 2]], params)
    assert request.output == plain.output
    assert request.stats.mean_accepted_length > 3  # nonsense alone has 1


@damaged
def test_a_kept_curve_that_something_happened_to_is_measured_anew(
    damage: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specdec.policy.cost.measure", lambda model: TYPICAL)
    model = llama(0)
    cost_curve(model, tmp_path)
    [path] = tmp_path.iterdir()
    damage(path)
    monkeypatch.setattr("specdec.policy.cost.measure", lambda model: STEEP)
    with pytest.warns(RuntimeWarning, match="made anew"):
        assert cost_curve(model, tmp_path) == STEEP
    assert cost_curve(model, tmp_path) == STEEP


@pytest.mark.parametrize(
    "change",
    [{"rows": [2, 1, 4, 8]}, {"rows": [1, 2]}, {"rows": []}, {"rows": None}, {"rows": [0, 1, 2, 3]},
     {"seconds": [4.0, 3.0, 2.0, 1.0]}, {"seconds": [1.0, float("nan"), 2.0, 3.0]},
     {"seconds": [1, 2, 3, float("inf")]},
     {"seconds": [-1.0, 1.0, 2.0, 3.0]}, {"per_token": -1.0}, {"per_token": float("nan")}, {"per_token": []},
     {"per_row_token": -1.0}, {"per_row_token": float("inf")}, {"per_row_token": "much"},
     {"rows": [1, 2, 3, float("inf")]}],
    ids=str,
)  # fmt: skip
def test_a_kept_curve_that_no_machine_can_have_is_measured_anew(
    change: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specdec.policy.cost.measure", lambda model: TYPICAL)
    model = llama(0)
    cost_curve(model, tmp_path)
    [path] = tmp_path.iterdir()
    kept.store(path, json.dumps(asdict(TYPICAL) | change).encode())
    with pytest.warns(RuntimeWarning, match="made anew"):
        assert cost_curve(model, tmp_path) == TYPICAL


@unwritable
def test_a_curve_is_measured_once_where_nothing_can_be_kept(
    make_folder: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([TYPICAL])
    monkeypatch.setattr("specdec.policy.cost.measure", lambda model: next(measured))
    folder = make_folder(tmp_path)
    with pytest.warns(RuntimeWarning, match="Nothing can be kept"):
        assert [cost_curve(llama(0), folder) for _ in range(2)] == [TYPICAL] * 2
