"""Times of one step, by a clock that tells what it is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.engine import clock
from specdec.engine.clock import Share, StepClock
from specdec.stats import DecodingStats


def step(monkeypatch: pytest.MonkeyPatch, shares: list[Share]) -> None:
    """Six seconds of drafting, twelve of verifying, six of the host's own."""
    times = iter([100.0, 101.0, 107.0, 110.0, 122.0, 124.0])
    monkeypatch.setattr(clock, "perf_counter", lambda: next(times))
    watch = StepClock()
    watch.start()
    with watch.measure("draft"):
        pass
    with watch.measure("verify"):
        pass
    watch.divide(shares, {"slow": 4.0, "quick": 1.0})
    assert next(times, None) is None


def by_drafter(stats: DecodingStats) -> dict[str, float]:
    return {entry.name: entry.seconds for entry in stats.by_drafter}


def seconds(stats: DecodingStats) -> tuple[float, float, float, float]:
    return stats.prefill_seconds, stats.draft_seconds, stats.verify_seconds, stats.host_seconds


def share(prefill_rows: int, decode_rows: int) -> Share:
    return Share(DecodingStats(), prefill_rows, decode_rows)


def test_one_request_that_decodes_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = share(0, 5)
    step(monkeypatch, [alone])
    assert seconds(alone.stats) == (0.0, 6.0, 12.0, 6.0)


def test_requests_pay_by_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = share(0, 1), share(0, 2)
    step(monkeypatch, [small, large])
    assert by_drafter(small.stats) == pytest.approx({"slow": 4 / 3, "quick": 1 / 3})
    assert by_drafter(large.stats) == pytest.approx({"slow": 8 / 3, "quick": 2 / 3})
    assert seconds(small.stats) == pytest.approx((0.0, 2.0, 4.0, 2.0))
    assert seconds(large.stats) == pytest.approx((0.0, 4.0, 8.0, 4.0))


def test_drafting_and_host_work_go_to_those_that_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    prefills, decodes, both = share(6, 0), share(0, 2), share(3, 1)
    step(monkeypatch, [prefills, decodes, both])
    assert seconds(prefills.stats) == pytest.approx((6.0, 0.0, 0.0, 0.0))
    assert seconds(decodes.stats) == pytest.approx((0.0, 4.0, 2.0, 4.0))
    assert seconds(both.stats) == pytest.approx((3.0, 2.0, 1.0, 2.0))


def test_a_step_that_only_prefills_is_all_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = share(1, 0), share(3, 0)
    step(monkeypatch, [one, three])
    assert seconds(one.stats) == pytest.approx((6.0, 0.0, 0.0, 0.0))
    assert seconds(three.stats) == pytest.approx((18.0, 0.0, 0.0, 0.0))
    assert (one.stats.by_drafter, three.stats.by_drafter) == ([], [])


def test_steps_add_up_and_each_starts_from_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 4.0, 50.0, 51.0, 52.0, 52.0, 56.0, 57.0])
    monkeypatch.setattr(clock, "perf_counter", lambda: next(times))
    watch, alone = StepClock(), share(0, 1)
    watch.start()
    with watch.measure("draft"):
        pass
    watch.divide([alone], {})
    assert seconds(alone.stats) == (0.0, 2.0, 0.0, 2.0)
    watch.start()
    with watch.measure("verify"):
        pass
    with watch.measure("verify"):
        pass
    watch.divide([alone], {})
    assert seconds(alone.stats) == (0.0, 2.0, 5.0, 4.0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1).filter(lambda rows: any(map(sum, rows))))
def test_the_sum_over_requests_is_the_time_that_passed(rows: list[tuple[int, int]]) -> None:
    shares = [share(*row) for row in rows]
    with pytest.MonkeyPatch.context() as monkeypatch:
        step(monkeypatch, shares)
    assert sum(sum(seconds(one.stats)) for one in shares) == pytest.approx(24.0)
