"""A batch becomes requests, each with its own error."""

from __future__ import annotations

from typing import Any

import pytest

from specdec import ConfigError, InvalidRequestError, SamplingParams
from specdec.engine.batch import make_requests
from specdec.prompts.encoding import PromptEncoder

ONE, TWO = SamplingParams(max_tokens=1), SamplingParams(max_tokens=2)


def made(prompts: Any, params: Any, on_error: Any = "return") -> list[Any]:
    """(token ids, max_tokens) of what is made; the message of what is refused."""
    encode = PromptEncoder(None).encode
    told = make_requests(prompts, params, on_error, encode, lambda ids, one: (ids, one.max_tokens), {})  # type: ignore[arg-type, return-value]
    return [str(each) if isinstance(each, Exception) else each for each in told]


def test_parameters_are_for_all_or_for_one_each() -> None:
    assert made([[1], [2]], ONE) == [([1], 1), ([2], 1)]
    assert made([[1], [2]], [ONE, TWO]) == [([1], 1), ([2], 2)]
    assert made([[1], [2]], (ONE, TWO)) == [([1], 1), ([2], 2)]
    assert made([1, 2], [TWO]) == [([1, 2], 2)]
    assert made([[1]], None) == [([1], SamplingParams().max_tokens)]
    assert made([], ONE) == made([], None) == made([], []) == []


def test_what_parameters_leave_out_is_the_models_own() -> None:
    given = [SamplingParams(), SamplingParams(temperature=0.5)]
    told = make_requests([[1], [2]], given, "raise", list, lambda ids, one: one.temperature, {"temperature": 0.25})  # type: ignore[arg-type, return-value]
    assert told == [0.25, 0.5]


def test_a_prompt_has_as_many_entries_as_samples() -> None:
    three = SamplingParams(max_tokens=3, n=3, temperature=1)
    assert made([[1], [2]], [three, ONE]) == [([1], 3)] * 3 + [([2], 1)]
    told = made([None, [2]], [three, ONE])
    assert told[3:] == [([2], 1)]
    assert all(each.startswith("Prompt 0: None is not a prompt.") for each in told[:3])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([ONE], "2 prompts but 1 sampling parameters. Give one, or one each."),
        ([], "2 prompts but 0 sampling parameters"),
        ({"max_tokens": 1}, "params = {'max_tokens': 1} cannot work. Give SamplingParams, or a list of them."),
        ("greedy", "params = 'greedy' cannot work"),
        (SamplingParams, "params = <class"),
        (iter([ONE, TWO]), "params = <list_iterator"),
        (5, "params = 5 cannot work"),
    ],
)
def test_parameters_that_fit_no_batch_refuse_it(params: Any, message: str) -> None:
    for on_error in ("raise", "return"):
        with pytest.raises(InvalidRequestError) as caught:
            made([[1], [2]], params, on_error)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize("bad", [None, {"max_tokens": 1}, 5, "greedy", SamplingParams])
def test_wrong_parameters_of_one_prompt_are_its_error(bad: Any) -> None:
    good, error, also_good = made([[1], [2], [3]], [ONE, bad, TWO])
    assert (good, also_good) == (([1], 1), ([3], 2))
    assert error.startswith("Prompt 1: params = ")
    assert error.endswith("cannot work. Give SamplingParams.")
    with pytest.raises(InvalidRequestError, match="Prompt 1: params"):
        made([[1], [2], [3]], [ONE, bad, TWO], "raise")


def test_bad_prompts_are_their_own_errors() -> None:
    told = made([[1], None, b"x", [2]], ONE)
    assert (told[0], told[3]) == (([1], 1), ([2], 1))
    assert told[1].startswith("Prompt 1: None is not a prompt.")
    assert told[2].startswith("Prompt 2: b'x' (bytes) is not a prompt.")
    assert made(None, ONE)[0].startswith("Prompt 0: None is not a prompt.")


@pytest.mark.parametrize("on_error", ["skip", None, True, ["raise"]])
def test_errors_are_raised_or_returned(on_error: Any) -> None:
    with pytest.raises(ConfigError, match=r"on_error = .* cannot work. Give 'raise' or 'return'"):
        made([[1]], ONE, on_error)
