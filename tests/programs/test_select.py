"""`select` and `score` against transformers in float64, token by token, and the passes that they take."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import takewhile

import numpy as np
import pytest

from specdec import ConfigError, Drafter, InvalidRequestError, SamplingParams
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.head import HeadDrafter
from specdec.drafters.recycling import RecyclingDrafter
from specdec.models.base import CausalLM
from specdec.programs.scoring import WAYS, By
from specdec.sampling.constraints import Choices
from tests.pairheads import random_pairs
from tests.programs.scenes import V, generator, logprobs, target, tokenizer

DRAFTERS: dict[str, Callable[[CausalLM], Drafter]] = {
    "pairs": lambda target: HeadDrafter(random_pairs(target), branches=2),
    "early exit": lambda target: EarlyExitDrafter(num_draft_tokens=3, num_layers=1),
    "recycling": lambda target: RecyclingDrafter(),
}
CLOSE = {"rel": 1e-4, "abs": 1e-4}
"""A sum of some ten float32 log-probabilities of size 10, each from a float32 pass of two layers."""
CONTEXT = "the other believers believe in un"
CHOICES = ["believable", " theory", "der the theory", "der", " text; naïve", "til then"]


def encoded(text: str) -> list[int]:
    return list(tokenizer().encode(text, add_special_tokens=False))


def common(*texts: list[int]) -> list[int]:
    """The beginning of all of them."""
    return [same[0] for same in takewhile(lambda same: len(set(same)) == 1, zip(*texts, strict=False))]


def expected(choices: list[str]) -> tuple[list[int], list[list[int]]]:
    """Tokens before all choices, and of each choice those behind them: of whole texts, encoded at once."""
    whole = [encoded(CONTEXT + choice) for choice in choices]
    before = common(encoded(CONTEXT), *whole)
    return before, [one[len(before) :] for one in whole]


def scores_of(by: By) -> list[float]:
    """By hand."""
    before, paths = expected(CHOICES)
    sums = [sum(logprobs(before, path)) for path in paths]
    if by == "sum":
        return sums
    if by == "mean":
        return [total / len(path) for total, path in zip(sums, paths, strict=True)]
    if by == "normalised by context":
        alone = [sum(logprobs([tokenizer().eos_token_id], path)) for path in paths]
        return [(a - b) / len(path) for a, b, path in zip(sums, alone, paths, strict=True)]
    assert by == "sample"
    masses = [math.exp(one) for one in sums]
    masses[CHOICES.index("der")] -= masses[CHOICES.index("der the theory")]  # these texts go on with the longer one
    return [mass / sum(masses) for mass in masses]


@pytest.mark.parametrize("by", ["sum", "mean", "normalised by context", "sample"])
def test_scores_are_those_of_transformers_and_the_best_one_is_taken(by: By) -> None:
    with generator() as one:
        session = one.session(CONTEXT)
        selection = session.select(CHOICES, by, seed=5).result()
        assert selection.scores == pytest.approx(scores_of(by), **CLOSE)
        assert selection.logprobs == pytest.approx(scores_of("sum"), **CLOSE)
        if by != "sample":
            assert selection.index == int(np.argmax(scores_of(by)))
        assert selection.choice == CHOICES[selection.index]
        assert session.tokens == encoded(CONTEXT + selection.choice)
        assert session.text == CONTEXT + selection.choice


@pytest.mark.parametrize("seed", range(6))
def test_greedy_is_what_decoding_under_the_choices_says(seed: int) -> None:
    """The oracle is `generate` with a constraint, which knows nothing of trees of choices."""
    contexts = ["Emoji and more", "the fox", "def f(x):", "Über", "in allen", "double  spaces"]
    choices = [" the", " theory", " then", " there", " lazy dog", " the other"]
    with generator() as one:
        before = encoded(contexts[seed])
        paths = [encoded(contexts[seed] + choice)[len(before) :] for choice in choices]
        constraint = Choices(paths, [tokenizer().eos_token_id], V)
        [said] = one.generate([before], SamplingParams(max_tokens=20, constraint=constraint))
        assert one.session(contexts[seed]).select(choices, "greedy").result().choice == said.text


def test_draws_follow_the_probabilities() -> None:
    """400 draws; a true law is refused once in 10,000 times (chi-square, 2 degrees of freedom)."""
    choices = ["p", "m", "able"]
    with generator() as one:
        session = one.session("New lines and")
        calls = [session.fork(1)[0].select(choices, "sample", seed=seed) for seed in range(400)]
        selections = [call.result() for call in calls]
    counts = np.bincount([one.index for one in selections], minlength=3)
    wanted = 400 * np.array(selections[0].scores)
    assert sum(selections[0].scores) == pytest.approx(1)
    assert min(wanted) > 5
    assert ((counts - wanted) ** 2 / wanted).sum() < 18.4


def test_eight_choices_take_one_pass_and_run_common_beginnings_once() -> None:
    choices = [" the fox", " the dog", " the lazy dog", " theory", " then", " thence", " brown", " tabs."]
    paths = [encoded("over" + choice)[len(encoded("over")) :] for choice in choices]
    assert max(map(len, paths)) <= 6
    with generator() as one:
        rows = one.engine.model.rows
        selection = one.session("over").select(choices, "mean").result()
        nodes = {tuple(path[: n + 1]) for path in paths for n in range(len(path))}
        inner = {node[:-1] for node in nodes} - {()}
        assert rows == [len(encoded("over")) + len(inner)]  # the last token of a choice is scored, and not read
        assert len(inner) < len(nodes) < sum(map(len, paths))
        one.session("over" + selection.choice).select(choices, "sum").result()
        assert len(rows) == 2
        assert rows[1] < rows[0] + len(encoded(selection.choice))  # what came before was cached


def test_choices_of_one_token_are_read_off_the_row_before_them() -> None:
    with generator() as one:
        selection = one.session("New lines and").select(["p", "m", "able"], "sum").result()
        assert one.engine.model.rows == [len(encoded("New lines and"))]
        before = encoded("New lines and")
        wanted = [sum(logprobs(before, encoded(choice))) for choice in ("p", "m", "able")]
        assert selection.logprobs == pytest.approx(wanted, **CLOSE)


def test_a_score_is_that_of_transformers_and_changes_nothing() -> None:
    text = "lievable; the theory, then the other, and then thence there again."
    with generator() as one:
        session = one.session("We unbe")
        score = session.score(text).result()
        whole, before = encoded("We unbe" + text), common(encoded("We unbe"), encoded("We unbe" + text))
        assert list(score.token_ids) == whole[len(before) :]
        assert score.logprobs == pytest.approx(logprobs(before, whole[len(before) :]), **CLOSE)
        assert score.total == pytest.approx(sum(score.logprobs))
        assert score.mean == pytest.approx(score.total / len(score.logprobs))
        assert session.text == "We unbe"


def test_a_text_longer_than_a_pass_is_scored_in_pieces() -> None:
    text = " the theory, then the other" * 8
    with generator(max_batch_tokens=32, max_num_seqs=2) as one:
        score = one.session("believe in").score(text).result()
        before = encoded("believe in")
        assert len(score.logprobs) > 32
        assert score.logprobs == pytest.approx(logprobs(before, encoded("believe in" + text)[len(before) :]), **CLOSE)


def test_probes_run_beside_requests_that_speculate_and_are_preempted() -> None:
    """Ten selections and ten texts in so few blocks that some lose their place: results are those of each alone."""
    contexts = [f"{word} the theory, then the other" for word in ("fox", "dog", "def", "in", "Ruh")] * 2
    params = SamplingParams(max_tokens=60, temperature=0.8, seed=1)
    with generator() as alone:
        texts = [alone.generate(context, params)[0].text for context in contexts]
        scores = [alone.session(context).select(CHOICES).result().scores for context in contexts]
    with generator(num_blocks=28, prefix_cache=False, max_num_seqs=4, max_batch_tokens=96) as tight:
        calls = [(tight.session(c).gen(params), tight.session(c).select(CHOICES)) for c in contexts]
        results = [(text.result(), selection.result()) for text, selection in calls]
        assert [text.text for text, _ in results] == texts
        assert [selection.scores for _, selection in results] == scores
        assert sum(text.stats.preemptions for text, _ in results)
        tight.engine.cache.check_integrity()
        assert tight.engine.cache.num_free_blocks == 28


@pytest.mark.parametrize("name", DRAFTERS)
def test_drafters_are_told_of_what_a_probe_reads_and_of_no_more(name: str) -> None:
    """Those with pools of their own, and one that wants the whole prefix in the cache first."""
    params = SamplingParams(max_tokens=12)
    with generator("none") as plain, generator(DRAFTERS[name](target())) as one:
        ours, theirs = one.session(CONTEXT), plain.session(CONTEXT)
        assert ours.select(CHOICES, "sum").result() == theirs.select(CHOICES, "sum").result()
        assert ours.gen(params).result().token_ids == theirs.gen(params).result().token_ids
        assert not one.engine.drafting.faults
        one.engine.cache.check_integrity()


@pytest.mark.parametrize(
    ("choices", "by", "message"),
    [
        ([], "mean", "Give a list of texts"),
        ("yes", "mean", "Give a list of texts"),
        (["yes", ""], "mean", "choice = ''"),
        (["yes", "no", "yes"], "sum", r"choices\[2\] = 'yes'"),
        (["yes", 1], "sum", "choice = 1"),
        (["yes"], "best", "by = 'best' is not a way to select. Give one of 'mean'"),
        ([" ".join(["theory"] * 400)], "mean", "more than the 512"),
        ([" ".join(["theory"] * 120)], "mean", "one pass"),
    ],
)
def test_what_cannot_be_selected_is_refused_by_name(choices: list[str], by: By, message: str) -> None:
    with generator() as one:
        session = one.session("in")
        with pytest.raises((InvalidRequestError, ConfigError), match=message):
            session.select(choices, by)
        assert session.select(["yes"], "sum").result().index == 0


def test_the_ways_are_those_of_the_page() -> None:
    assert set(WAYS) == {"mean", "sum", "greedy", "normalised by context", "sample"}
