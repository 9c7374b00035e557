"""The sentence over the page, and the figure below it, against figures written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from specdec.measure.runs import Run
from specdec.report.answer import answer
from specdec.report.differences import contests
from specdec.report.methods import methods
from specdec.report.speedups import curves, intervals
from tests.measure.studies import environment, run, scalars, summary
from tests.report.test_differences import CLOSE, FAST, SLOW, measured

WHY = (
    "A target pass gives τ = 9.00 tokens; 50% of the tested draft tokens are accepted (α). Drafting costs 5% of a "
    "plain step. Time: 12% drafting, 75% target passes, 12% the rest."
)


def said(*runs: Run) -> str:
    [contest] = contests(list(runs))
    return " ".join(answer(contest))


def test_a_leader_that_is_certain_is_named_with_its_lead() -> None:
    assert said(measured("slow", SLOW), measured("fast", FAST)).startswith(
        "fast is the fastest: 2.10 times as fast as plain decoding (95 % interval 2.00–2.23). It is 1.97 times "
        "as fast as slow ("
    )
    assert said(measured("fast", FAST), measured("slow", SLOW)).endswith(f", p < 0.001). {WHY}")


def test_a_leader_that_others_may_equal_is_not_called_better() -> None:
    assert said(measured("fast", FAST), measured("close", CLOSE), measured("slow", SLOW)) == (
        "fast is the fastest: 2.10 times as fast as plain decoding (95 % interval 2.00–2.23). Its lead over "
        f"close is not significant. {WHY}"
    )


def test_what_is_not_faster_than_plain_decoding_does_not_lead() -> None:
    plain = measured("none", [1.0] * 5, tau=1.0)
    told = said(plain, measured("bad", [0.5, 0.6, 0.5, 0.6, 0.55]))
    assert told.startswith(
        "No method is faster than plain decoding. The best one, bad, is 0.55 times as fast as plain decoding "
        "(95 % interval 0.45–0.68)."
    )
    assert said(plain).startswith("Only plain decoding was measured.")
    assert "This lead over plain decoding may be chance." in said(measured("odd", [1.0, 1.02, 1.1]))


def test_seeds_that_agree_say_nothing_of_other_prompts() -> None:
    """Both seeds have 1.6 on the mean, from prompts between 0.7 and 3."""
    wide = [0.7, 0.8, 1.9, 3.0]
    told = said(measured("x", wide, seed=0), measured("x", wide, seed=1))
    assert told.startswith(
        "x is 1.60 times as fast as plain decoding (± 0.00 between seeds). This lead over plain decoding may be chance."
    )


def test_a_study_without_a_speedup_says_why() -> None:
    beside = environment(side_by_side=True)
    assert said(measured("x", FAST, environment=beside)) == (
        "No speedup can be reported. The jobs ran side by side, so their times are not reliable. Compare τ and α."
    )
    assert said(measured("x", FAST, tau=1.5)) == (
        "No speedup can be reported. The speedup of x is above τ: a measuring error."
    )
    bare = run("x", {"drafter": "x", "rule": "auto"}, summary(scalars(None, 2.0, 0.5), 0.8))
    assert said(bare) == ("No speedup can be reported. No plain decoding was measured. Compare τ and α.")


def swept(drafter: str, gamma: int, seed: int, speedup: float | None, **others: Any) -> Run:
    where = {"drafter": drafter, "rule": "auto", "num_draft_tokens": gamma, "seed": seed}
    return run(f"{drafter}-{gamma}-{seed}", where, summary(scalars(speedup, 3.0, 0.5, **others), 0.8))


def test_a_swept_number_gives_a_curve_of_each_method_and_seeds_are_one_line() -> None:
    runs = [swept("a", g, s, 1.0 + 0.1 * g + s) for g in (2, 4) for s in (0, 1)] + [swept("b", 2, 0, 1.5)]
    [figure] = curves(methods(runs))
    assert (figure.title, [line.label for line, _ in figure.legend]) == ("Over γ", ["a"])
    speed = sorted((r["at"], r["value"]) for r in figure.records if r["kind"] == "speedup")
    assert speed == [
        (2.0, pytest.approx(1.2)),
        (2.0, pytest.approx(2.2)),
        (4.0, pytest.approx(1.4)),
        (4.0, pytest.approx(2.4)),
    ]
    assert set(figure.choices) == {"speedup", "tau", "alpha"}
    assert curves(methods(runs[:1])) == []


def test_intervals_stand_by_size_and_leave_out_what_cannot_be_true() -> None:
    one_prompt = swept("c", 2, 0, 1.25, prompts=1)
    figure = intervals(methods([swept("a", 2, 0, 1.5), swept("b", 2, 0, 3.5), one_prompt]))
    assert [(r["method"], r["speedup"], r["low"], r["tau"]) for r in figure.records] == [
        ("a", 1.5, 1.4, 3.0), ("c", 1.25, None, 3.0)
    ]  # fmt: skip
