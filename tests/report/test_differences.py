"""Who differs from whom, against figures written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import Any

import pytest
from scipy import stats

from specdec.measure.runs import Run
from specdec.report.differences import contests
from specdec.report.leaderboard import NOT_CREDIBLE, standings
from specdec.report.methods import methods
from specdec.report.text import markdown, rows
from tests.measure.studies import environment, run, scalars, summary


def measured(drafter: str, speedups: Sequence[float], tau: float = 9.0, seed: int = 0, **others: Any) -> Run:
    """A run whose prompts have these speedups; its own is their mean."""
    told = scalars(sum(speedups) / len(speedups), tau, 0.5, prompts=len(speedups))
    texts = [
        {"index": i, "category": "chat", "question_id": str(i), "prompt": f"p{i}", "text": "", "speedup": ratio}
        for i, ratio in enumerate(speedups)
    ]
    where = {"drafter": drafter, "rule": "auto", "temperature": others.pop("temperature", 0.0), "seed": seed}
    return run(f"{drafter}-{seed}", where, summary(told, 0.8), rows=texts, steps=[], **others)


FAST, CLOSE, SLOW = [2.0, 2.2, 2.1, 2.3, 1.9], [2.1, 2.0, 2.2, 2.1, 2.0], [1.0, 1.2, 1.05, 1.15, 0.95]


def test_pairs_have_scipys_p_times_holms_factor_and_groups_follow() -> None:
    [contest] = contests([measured("slow", SLOW), measured("close", CLOSE), measured("fast", FAST)])
    assert [one.name for one in contest.ranked] == ["fast", "close", "slow"]
    logs = {name: [log(x) for x in values] for name, values in
            {"fast": FAST, "close": CLOSE, "slow": SLOW}.items()}  # fmt: skip
    p = {
        pair: stats.ttest_rel(logs[pair[0]], logs[pair[1]]).pvalue
        for pair in (("fast", "close"), ("fast", "slow"), ("close", "slow"))
    }
    assert p["fast", "slow"] < p["close", "slow"] < 0.01 < 0.5 < p["fast", "close"]
    assert contest.pairs[0, 2].p == pytest.approx(3 * p["fast", "slow"])
    assert contest.pairs[1, 2].p == pytest.approx(2 * p["close", "slow"])
    assert contest.pairs[0, 1].p == pytest.approx(p["fast", "close"])
    assert contest.letters == ["a", "a", "b"]
    assert contest.rows[0] == ["fast", "2.10 (2.00–2.23)", "a", "leader", "–", "–"]
    assert contest.rows[2][3].startswith("0.509 (")
    assert contest.rows[2][4:] == ["< 0.001", "5"]


def test_what_is_above_tau_is_ranked_nowhere_be_it_by_noise() -> None:
    above = measured("odd", [1.6, 1.4, 1.53], tau=1.5)  # 1.51, and the interval of its excess holds 1
    above.summary["metrics"]["credible"] = True
    runs = [above, measured("slow", SLOW)]
    [contest] = contests(runs)
    assert [one.name for one in contest.ranked] == ["slow"]
    assert [one.name for one in contest.errors] == ["odd"]
    assert [one.method.label for one in standings(methods(runs))] == ["slow", "odd"]
    assert [cells[1] for cells in rows(runs)][1] == NOT_CREDIBLE
    document = markdown(runs, "study")
    assert "Not ranked, because their speedup is above τ: odd." in document
    assert "1.51" not in document


def test_one_prompt_has_no_interval_and_decides_nothing() -> None:
    runs = [measured("fast", [2.0]), measured("slow", [1.0])]
    [contest] = contests(runs)
    assert contest.pairs == {}
    assert contest.letters == ["a", "a"]
    assert [one.interval for one in standings(methods(runs))] == ["", ""]
    assert [cells[1] for cells in rows(runs)] == ["2.00", "1.00"]


def test_seeds_are_one_method_and_a_prompt_counts_once() -> None:
    """The geometric mean of 2 and 8 is 4, and of 1 and 4 it is 2."""
    fast = [measured("fast", [2.0, 1.0], seed=0), measured("fast", [8.0, 4.0], seed=1)]
    [contest] = contests([*fast, measured("slow", [1.0, 1.0])])
    assert [one.name for one in contest.ranked] == ["fast", "slow"]
    assert contest.ranked[0].speedup == pytest.approx((1.5 + 6.0) / 2)
    assert list(contest.ranked[0].by_prompt.values()) == pytest.approx([4.0, 2.0])
    assert contest.pairs[0, 1].prompts == 2
    assert contest.pairs[0, 1].ratio == pytest.approx(8**0.5)


def test_only_shared_prompts_of_one_condition_are_compared() -> None:
    other = measured("fast", FAST, temperature=1.0)
    beside = measured("beside", FAST, environment=environment(side_by_side=True))
    found = {
        one.condition: one for one in contests([measured("slow", SLOW[:3]), measured("fast", FAST), other, beside])
    }
    assert set(found) == {"temperature 0.0", "temperature 1.0"}
    assert [len(one.ranked) for one in found.values()] == [2, 1]  # times taken side by side are no evidence
    assert found["temperature 0.0"].pairs[0, 1].prompts == 3


def test_the_document_has_the_table_where_two_methods_are_ranked() -> None:
    document = markdown([measured("slow", SLOW), measured("fast", FAST)], "study")
    assert "## Which methods differ" in document
    assert "| slow | 1.07 (0.97–1.20) | b |" in document
    assert "## Which methods differ" not in markdown([measured("slow", SLOW)], "study")
