"""Counts by hand, and sums."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.measure.metrics import (
    bootstrap_interval,
    cost_ratio,
    credible,
    drafting_cost,
    percentile,
    predicted_speedup,
    speedup,
    speedup_interval,
    speedup_with_prefill,
)
from specdec.stats import NOBODY, DecodingStats, DrafterStats

Steps = list[tuple[int, int]]
"""(tested, accepted) draft positions of each step."""
steps = st.lists(st.integers(0, 5).flatmap(lambda tested: st.tuples(st.just(tested), st.integers(0, tested))))


def recorded(steps: Steps, **times: float) -> DecodingStats:
    stats = DecodingStats(**times)  # type: ignore[arg-type]
    for tested, accepted in steps:
        stats.record_step(emitted=accepted + 1, drafted=5, tested=tested, accepted=accepted)
    return stats


def test_three_steps_by_hand() -> None:
    stats = recorded([(3, 3), (1, 0), (2, 1)], draft_seconds=1.0, verify_seconds=0.5, host_seconds=0.5)
    assert (stats.passes, stats.output_tokens, stats.drafted_tokens) == (3, 7, 15)
    assert (stats.tested_at, stats.accepted_at) == ([3, 2, 1], [2, 1, 1])
    assert stats.accepted_tokens == 4
    assert stats.mean_accepted_length == pytest.approx(7 / 3)
    assert stats.acceptance_rate == pytest.approx(4 / 6)
    assert stats.acceptance_by_position == [pytest.approx(2 / 3), 0.5, 1.0]
    assert stats.decode_seconds == 2.0
    assert stats.tokens_per_second == 3.5


def test_plain_decoding_has_a_mean_accepted_length_of_one_and_no_acceptance() -> None:
    stats = recorded([(0, 0)] * 4)
    assert stats.mean_accepted_length == 1.0
    assert stats.acceptance_rate == 0.0
    assert stats.acceptance_by_position == []


def test_nothing_is_divided_by_nothing() -> None:
    stats = DecodingStats()
    assert (stats.mean_accepted_length, stats.acceptance_rate, stats.tokens_per_second) == (0.0, 0.0, 0.0)
    assert stats == DecodingStats.total([])


def test_prefill_is_in_no_rate() -> None:
    stats = recorded([(1, 1)], verify_seconds=2.0, prefill_seconds=100.0)
    assert (stats.decode_seconds, stats.tokens_per_second) == (2.0, 1.0)


def test_tokens_that_were_cut_off_the_end_are_not_counted_as_output() -> None:
    stats = DecodingStats()
    stats.record_step(emitted=2, drafted=4, tested=4, accepted=4)  # an end token among the accepted
    assert (stats.output_tokens, stats.accepted_tokens, stats.mean_accepted_length) == (2, 4, 2.0)


@given(steps)
def test_counts_at_each_position_are_those_of_a_plain_count(steps: Steps) -> None:
    stats = recorded(steps)
    reach = max((tested for tested, _ in steps), default=0)
    assert stats.tested_at == [sum(tested > i for tested, _ in steps) for i in range(reach)]
    assert stats.accepted_at == [sum(accepted > i for _, accepted in steps) for i in range(reach)]
    assert all(0.0 <= share <= 1.0 for share in stats.acceptance_by_position)


@given(st.lists(steps, max_size=4))
def test_a_total_is_what_one_record_of_all_steps_says(parts: list[Steps]) -> None:
    total = DecodingStats.total(recorded(part) for part in parts)
    assert total == recorded([step for part in parts for step in part])


def test_every_field_is_added_and_the_parts_stay_as_they_were() -> None:
    names = [field.name for field in fields(DecodingStats) if field.name != "by_drafter"]
    lists = {"tested_at", "accepted_at"}
    a = DecodingStats(**{name: [1, 2] if name in lists else 2**i for i, name in enumerate(names)})  # type: ignore[arg-type]
    b = DecodingStats(**{name: [1] if name in lists else 3 * 2**i for i, name in enumerate(names)})  # type: ignore[arg-type]
    added = a + b
    for i, name in enumerate(names):
        assert getattr(added, name) == ([2, 2] if name in lists else 4 * 2**i)
    assert (a.tested_at, b.tested_at) == ([1, 2], [1])
    added.tested_at.append(9)
    assert a.tested_at == [1, 2]


def test_steps_are_counted_by_who_drafted_them() -> None:
    a, b = DecodingStats(), DecodingStats()
    a.record_step(emitted=3, drafted=4, tested=3, accepted=2, drafter="quick")
    a.record_step(emitted=1, drafted=0, tested=0, accepted=0, drafter="quick")  # it was asked, and had nothing to say
    a.of("quick").seconds = 0.5
    b.record_step(emitted=2, drafted=5, tested=2, accepted=1, drafter="slow")
    b.record_step(emitted=1, drafted=2, tested=1, accepted=0, drafter="quick")
    b.of("quick").seconds = 0.25
    total = a + b
    assert total.by_drafter == [
        DrafterStats("quick", steps=2, drafted_tokens=6, accepted_tokens=2, output_tokens=4, seconds=0.75),
        DrafterStats(NOBODY, steps=1, output_tokens=1),
        DrafterStats("slow", steps=1, drafted_tokens=5, accepted_tokens=1, output_tokens=2),
    ]
    assert [entry.mean_accepted_length for entry in total.by_drafter] == [2.0, 1.0, 2.0]
    assert [entry.name for entry in a.by_drafter] == ["quick", NOBODY]
    total.of("quick").steps = 9
    assert a.of("quick").steps == 1  # the parts stay as they were
    assert DrafterStats("new").mean_accepted_length == 0.0


def test_what_can_be_read_off_three_steps() -> None:
    stats = recorded([(3, 3), (1, 0), (2, 1), (0, 0)])
    assert stats.cumulative_acceptance == [pytest.approx(2 / 3), pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert stats.acceptance_histogram == [2, 1, 0, 1]
    assert stats.wasted_tokens == 4 * 5 - 4


@given(steps.filter(bool))
def test_the_histogram_is_a_plain_count(steps: Steps) -> None:
    accepted = [accepted for _, accepted in steps]
    assert recorded(steps).acceptance_histogram == [accepted.count(n) for n in range(max(accepted) + 1)]


def timed(tokens: int, seconds: float) -> DecodingStats:
    return DecodingStats(output_tokens=tokens, verify_seconds=seconds, passes=tokens)


def test_the_interval_of_equal_ratios_is_a_point_and_holds_the_ratio() -> None:
    plain, fast = [timed(10, 2.0), timed(40, 8.0)], [timed(10, 1.0), timed(40, 4.0)]
    assert speedup(plain, fast) == 2.0
    assert speedup_interval(plain, fast) == (pytest.approx(2.0), pytest.approx(2.0))


def test_the_interval_widens_with_the_spread_and_keeps_pairs_together() -> None:
    plain = [timed(10, 2.0 * (1 + i % 5)) for i in range(40)]  # slow prompts are slow on both sides
    fast = [timed(10, 1.0 * (1 + i % 5)) for i in range(40)]
    assert speedup_interval(plain, fast) == (pytest.approx(2.0), pytest.approx(2.0))
    mixed = [timed(10, (1.0 if i % 2 else 3.0) * (1 + i % 5)) for i in range(40)]
    low, high = speedup_interval(plain, mixed)
    assert low < speedup(plain, mixed) < high
    assert high - low > 0.1


def test_bootstrap_standard_error_is_that_of_a_mean_of_ratios() -> None:
    """With equal plain times the ratio is the harmonic mean, whose error the delta method gives."""
    rng = np.random.default_rng(0)
    seconds = rng.uniform(0.8, 1.2, size=400)
    plain, fast = [timed(1, 2.0)] * 400, [timed(1, float(s)) for s in seconds]
    low, high = speedup_interval(plain, fast)
    error = 2.0 / seconds.mean() ** 2 * seconds.std() / 20
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)  # 2000 resamples: 3 % noise of each end


def test_each_end_of_the_interval_leaves_out_a_fortieth() -> None:
    """Of a mean of many equal parts, whose law is the normal one."""
    sizes = np.random.default_rng(1).normal(10.0, 1.0, size=(900, 1, 1))
    counts = np.concatenate([sizes, np.ones_like(sizes)], axis=1)
    low, high = bootstrap_interval(counts, lambda sums, n: sums[0] / n[0])
    error = 1.96 * sizes.std() / 30
    assert sizes.mean() - low == pytest.approx(error, rel=0.07)
    assert high - sizes.mean() == pytest.approx(error, rel=0.07)


def test_a_ratio_to_nothing_counts_as_nothing() -> None:
    assert bootstrap_interval(np.array([[[1.0], [0.0]]]), lambda a, b: a[0] / b[0]) == (0.0, 0.0)
    idle, busy = DecodingStats(), timed(10, 2.0)
    assert (speedup([idle], [busy]), speedup([busy], [idle])) == (0.0, 0.0)


def test_a_seed_that_is_left_out_is_0() -> None:
    plain = [timed(10, 2.0 + i % 7) for i in range(20)]
    fast = [timed(10, 1.0 + i % 3) for i in range(20)]
    assert speedup_interval(plain, fast) == speedup_interval(plain, fast, seed=0) != speedup_interval(plain, fast, 1)
    counts = np.arange(1.0, 41.0).reshape(20, 2, 1)
    left_out, given, other = (bootstrap_interval(counts, lambda a, b: a[0] / b[0], *seed) for seed in ((), (0,), (1,)))
    assert left_out == given != other


def test_one_prompts_interval_is_its_own_ratio_of_tokens_a_second() -> None:
    plain = DecodingStats(output_tokens=12, passes=4, verify_seconds=8.0)  # 1.5 a second
    fast = DecodingStats(output_tokens=20, passes=5, verify_seconds=2.0)  # 10 a second
    assert speedup_interval([plain], [fast]) == pytest.approx((10 / 1.5, 10 / 1.5))


@pytest.mark.parametrize(("seconds", "believed"), [(3.4, True), (3.3, False)])
def test_what_is_believed_is_a_plain_tokens_time_over_a_pass(seconds: float, believed: bool) -> None:
    """A plain token takes 8 / 12 s, and five passes that are no faster take at least 3.33 s."""
    plain = DecodingStats(output_tokens=12, passes=4, verify_seconds=8.0)
    assert credible([plain], [DecodingStats(output_tokens=20, passes=5, verify_seconds=seconds)]) == believed


@pytest.mark.parametrize(("seconds", "believed"), [(5.2, True), (5.0, True), (4.9, False), (20.0, True)])
def test_a_prompt_whose_passes_are_faster_than_plain_ones_is_not_credible(seconds: float, believed: bool) -> None:
    plain = DecodingStats(output_tokens=10, passes=10, verify_seconds=10.0)
    assert credible([plain], [DecodingStats(output_tokens=10, passes=5, verify_seconds=seconds)]) == believed


def test_a_clock_that_only_wavers_around_tokens_per_pass_is_believed_and_one_that_is_always_above_is_not() -> None:
    """τ differs from prompt to prompt, so that the speedup's own interval is wide: what is asked is speedup / τ."""
    plain = [DecodingStats(output_tokens=60, passes=60, verify_seconds=60.0) for _ in range(20)]

    def fast(*seconds_per_pass: float) -> list[DecodingStats]:
        sizes = zip(seconds_per_pass * 10, [10, 12, 15, 20, 30] * 4, strict=True)
        return [DecodingStats(output_tokens=60, passes=n, verify_seconds=n * seconds) for seconds, n in sizes]

    def tau(sides: list[DecodingStats]) -> float:
        return DecodingStats.total(sides).mean_accepted_length

    wavering, always = fast(0.9, 1.08), fast(0.95, 0.97)
    assert speedup(plain, wavering) > tau(wavering)
    assert credible(plain, wavering)
    low, high = speedup_interval(plain, always)
    assert low < tau(always) < high
    assert not credible(plain, always)


def test_the_cost_ratio_is_a_draft_token_over_a_pass() -> None:
    plain = DecodingStats(passes=10, verify_seconds=0.9, host_seconds=0.1)
    fast = DecodingStats(drafted_tokens=50, draft_seconds=1.0)
    assert cost_ratio(plain, fast) == pytest.approx(0.2)
    assert cost_ratio(plain, plain) is None


def test_the_drafting_cost_is_the_drafting_of_a_step_over_a_plain_step_with_drafts_and_without() -> None:
    plain = DecodingStats(passes=10, verify_seconds=0.9, host_seconds=0.1)
    busy = DecodingStats(passes=20, drafted_tokens=50, draft_seconds=1.0)
    idle = DecodingStats(passes=20, draft_seconds=0.5)
    assert drafting_cost(plain, busy) == pytest.approx(0.5)
    assert drafting_cost(plain, idle) == pytest.approx(0.25)
    assert drafting_cost(plain, DecodingStats()) is None
    assert drafting_cost(DecodingStats(), busy) is None


def test_the_speedup_of_whole_texts_counts_what_it_takes_to_read_the_prompts() -> None:
    plain = DecodingStats(output_tokens=12, verify_seconds=8.0, prefill_seconds=4.0)  # 1 a second
    fast = DecodingStats(output_tokens=12, verify_seconds=2.0, prefill_seconds=4.0)  # 2 a second
    assert speedup_with_prefill(plain, fast) == pytest.approx(2.0)
    assert speedup_with_prefill(plain, DecodingStats(output_tokens=3)) is None
    assert speedup_with_prefill(DecodingStats(), fast) is None


def test_the_prediction_is_the_batch_model() -> None:
    """τ = 2, four sequences: T(4 · 3) = 15 and T(4 · 1) = 7 in turn; each draft takes 1, the host 0.5 a sequence."""
    stats = DecodingStats(output_tokens=20, passes=10, draft_seconds=10.0, host_seconds=5.0)
    assert predicted_speedup(stats, [3, 1], lambda rows: 3.0 + rows, batch=4) == pytest.approx(2 * (7 + 2) / (11 + 6))
    alone = predicted_speedup(stats, [3, 1], lambda rows: 3.0 + rows)
    assert alone == pytest.approx(2 * (4 + 0.5) / (5 + 1.5)) == predicted_speedup(stats, [3, 1], lambda n: 3.0 + n, 1)


def test_percentiles_lie_between_neighbours() -> None:
    assert [percentile([1.0, 2.0, 3.0, 5.0], share) for share in (0.0, 0.5, 1.0)] == [1.0, 2.5, 5.0]
    assert percentile([], 0.5) == 0.0


def test_what_the_cache_saves_is_told_at_the_pace_of_what_ran() -> None:
    """60 of 80 tokens are found, and the other 20 take 2 seconds."""
    assert DecodingStats(prompt_tokens=80, cached_tokens=60, prefill_seconds=2.0).saved_prefill_seconds == 6.0
    assert DecodingStats(prompt_tokens=80, prefill_seconds=2.0).saved_prefill_seconds == 0.0
    assert DecodingStats().saved_prefill_seconds == 0.0
