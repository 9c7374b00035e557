"""What a request says of itself, step by step: its tokens, its pieces of text, and why it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from specdec import SamplingParams
from specdec.engine.request import Request, TextPiece
from specdec.engine.text import TextStream
from specdec.randomness import RandomSource
from specdec.sampling import LogitsTransform
from specdec.verify.base import Rule, StepKey
from specdec.verify.greedy import GreedyRule
from specdec.verify.gumbel import GumbelRule

END = 25
"""The token that ends a text: a "Z"."""


class Letters:
    """Token n is the n-th capital letter."""

    def decode(self, token_ids: Sequence[int], **kwargs: bool) -> str:
        return "".join(chr(65 + token) for token in token_ids)


def make(
    prompt: Sequence[int] = (3, 4), max_tokens: int = 8, rule: Rule | None = None, text: bool = True, **settings: Any
) -> Request:
    params = SamplingParams(max_tokens=max_tokens, **settings)
    stream = TextStream(Letters(), params.stop, params.min_tokens, params.include_stop_str_in_output)
    return Request(
        0, list(prompt), params, rule or GreedyRule(), LogitsTransform(params, prompt, 30), RandomSource(7),
        stream if text else None, frozenset([END]), len(prompt) + max_tokens,
    )  # fmt: skip


def pieces(*parts: tuple[str, bool]) -> list[TextPiece]:
    return [TextPiece(*part) for part in parts]


def test_a_new_request_has_its_prompt_and_nothing_else() -> None:
    request = make([3, 4, 5])
    assert (request.tokens, request.output, request.finished, request.finish_reason) == ([3, 4, 5], [], False, None)
    request.tokens.append(6)
    assert (request.prompt, request.output) == ([3, 4, 5], [6])


def test_the_random_numbers_of_a_step_are_named_by_the_length_of_the_text() -> None:
    request = make([3, 4, 5])
    assert request.key() == StepKey(request.random, 3)
    request.commit([6, 7], 1)
    assert request.key().anchor == 5


@pytest.mark.parametrize("rule", [GreedyRule(), GumbelRule()])
@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.2}])
@pytest.mark.parametrize("logprobs", [None, 0, 2])
def test_argmax_is_enough_if_nothing_else_is_looked_at(
    rule: Rule, settings: dict[str, Any], logprobs: int | None
) -> None:
    request = make(rule=rule, logprobs=logprobs, **settings)
    assert request.by_argmax == (isinstance(rule, GreedyRule) and not settings and logprobs is None)


@pytest.mark.parametrize("prompt", [1, 2, 4])
def test_a_prompt_is_scored_up_to_its_last_token_but_for_the_first(prompt: int) -> None:
    for scored in range(prompt):
        asked, silent = make(range(prompt), prompt_logprobs=0), make(range(prompt))
        for request in (asked, silent):
            request.prompt_logprobs.extend([-1.0] * scored)
        assert asked.scores_prompt == (scored < prompt - 1)
        assert not silent.scores_prompt


def test_a_draft_is_no_longer_than_what_may_follow_it() -> None:
    """With the token that the step adds itself the text ends where it must."""
    for own in (None, 0, 1, 3, 9):
        request = make([3, 4], max_tokens=6, num_draft_tokens=own)
        for left in range(6, 0, -1):
            for limit in range(8):
                allowed = [d for d in range(limit + 1) if d + 1 <= left and (own is None or d <= own)]
                assert request.max_depth(limit) == max(allowed)
            request.commit([5], 0)
        assert request.max_depth(5) == 0  # it has ended


def test_tokens_become_pieces_that_say_who_had_proposed_them() -> None:
    request = make()
    assert request.commit([0, 1, 2], num_drafted=2) == pieces(("A", True), ("B", True), ("C", False))
    assert request.commit([3], num_drafted=0) == pieces(("D", False))
    assert (request.output, request.finished) == ([0, 1, 2, 3], False)


def test_what_is_committed_counts_for_what_may_follow() -> None:
    request = make(bad_words=[[0, 1]])
    logits = torch.zeros(1, 30)
    assert torch.isfinite(request.transform.scores(logits, [()])[0, 1])
    request.commit([0], 0)
    assert request.transform.scores(logits, [()])[0, 1] == -torch.inf


@pytest.mark.parametrize(("tokens", "kept", "reason"), [
    ([0, 1, 2], [0, 1, 2], None),
    ([0, 1, 2, 3], [0, 1, 2, 3], "length"),
    ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3], "length"),
    ([0, END, 2], [0, END], "stop"),
    ([0, 1, 2, END, 4], [0, 1, 2, END], "stop"),  # both: it ended of itself
])  # fmt: skip
@pytest.mark.parametrize("text", [False, True])
def test_a_request_takes_tokens_up_to_its_end(
    tokens: list[int], kept: list[int], reason: str | None, text: bool
) -> None:
    request = make(max_tokens=4, text=text)
    shown = request.commit(tokens, len(tokens))
    assert (request.output, request.finish_reason, request.finished) == (kept, reason, reason is not None)
    letters = "".join(chr(65 + token) for token in kept if token != END)
    assert "".join(piece.text for piece in shown) == (letters if text else "")


def test_an_end_token_has_text_only_if_that_is_wanted() -> None:
    assert make().commit([0, END], 2) == pieces(("A", True))
    asked = make(include_stop_str_in_output=True)
    assert asked.commit([0, END], 2) == pieces(("A", True), ("Z", True))
    assert (asked.output, asked.finish_reason) == ([0, END], "stop")


@pytest.mark.parametrize(("include", "text"), [(False, "A"), (True, "ABC")])
def test_a_stop_string_ends_a_request_with_the_token_that_completes_it(include: bool, text: str) -> None:
    request = make(stop=["BC"], include_stop_str_in_output=include)
    shown = request.commit([0, 1, 2, 3], 4)
    assert (request.output, request.finish_reason) == ([0, 1, 2], "stop")
    assert "".join(piece.text for piece in shown) == text


@pytest.mark.parametrize("end", ["length", "stop", "aborted", "error"])
def test_text_that_was_held_comes_with_the_end_and_is_nobodys_draft(end: str) -> None:
    request, error = make(max_tokens=2 if end == "length" else 9, stop=["BCD"]), RuntimeError("its own")
    shown = request.commit([0, 1], 2)
    if end != "length":
        assert shown == pieces(("A", True))
    if end == "stop":
        shown += request.commit([END], 1)
    elif end != "length":
        shown += request.abort() if end == "aborted" else request.fail(error)
    assert shown == pieces(("A", True), ("B", False))
    assert request.finish_reason == end
    assert request.error is (error if end == "error" else None)


def test_without_a_text_there_are_no_pieces() -> None:
    request = make(text=False)
    assert request.commit([0, 1], 1) == []
    assert request.abort() == []
    assert make(text=False).fail(RuntimeError()) == []
