"""What a request may ask for: every field through every hostile value, and combinations that cannot work."""

from __future__ import annotations

import copy
import math
import pickle
import re
from dataclasses import fields, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specdec import ConfigError, Engine, SamplingParams, SpecdecError
from specdec.engine.request import Request
from specdec.sampling import Choices, LogitsTransform
from specdec.sampling.params import KINDS, Unset
from tests.engines import DRAFTERS, drain, small_engine
from tests.tiny import VOCAB_SIZE

HOSTILE: list[Any] = [
    None, True, False, np.True_, "", "yes", "1", b"1", "\ud800", -1, 0, 1, 2, 5, 64, 1000, 1001, 10**30, -(10**30),
    2**31, 2**63, 2**64, 10**5000, 0.0, -0.0, 0.5, 1.0, 2.0, 1e-320, 1e-7, 1e7, 1e39, -1e39, math.nan, math.inf,
    -math.inf, 1j, np.int64(3), np.uint8(3), np.float32(0.5), np.float16(np.nan), np.array(3), np.array([1, 2]),
    np.zeros((2, 0)), torch.tensor(2), torch.tensor([1, 2]), torch.tensor([0.5]), Decimal("0.5"), Fraction(1, 3), [],
    [0], [63], [64], [-1], [[]], [[1]], [[1, 2]], [[[1]]], ["a"], [""], [None], [True], [1, "a"], (1, 2), {1}, {},
    {1: 2.0}, {1: math.nan}, {64: 1.0}, {True: 1.0}, {"1": 1.0}, {1: "2"}, {1: 1e39}, {5: 10**400}, range(3),
    iter([1]), object(), int, len,
]  # fmt: skip


def test_the_table_covers_every_field() -> None:
    assert set(KINDS) == {field.name for field in fields(SamplingParams)}


def requests(engine: Engine, settings: dict[str, Any]) -> list[Request] | str:
    """At most two of those that the settings make, or the refusal."""
    try:
        params = [replace(one, max_tokens=min(one.max_tokens, 5)) for one in SamplingParams(**settings).samples()[:2]]
        return [engine.make_request([1, 2, 1, 2], one) for one in params]
    except SpecdecError as error:
        return str(error)


@pytest.mark.parametrize("name", KINDS)
def test_a_value_is_refused_by_name_or_decodes(name: str) -> None:
    """At temperature 0 and at the least one above it: what is accepted never fails in a pass."""
    engine = small_engine(DRAFTERS["ngram"](), num_blocks=64)
    refused = 0
    for settings in ({**base, name: value} for value in HOSTILE for base in ({"seed": 3}, {"temperature": 1e-5})):
        made = requests(engine, settings)
        if isinstance(made, str):
            assert name in made
            assert made.endswith(".")
            refused += 1
            continue
        for request in made:
            engine.add(request)
        drain(engine)
        for request in made:
            assert request.error is None, (settings, request.error)
            assert request.finish_reason in ("length", "stop")
    assert refused > 80


@pytest.mark.parametrize("logit", [-1e4, 1e-30, 1e4])
def test_the_largest_values_together_stay_finite(logit: float) -> None:
    """Hand-made rows, the least temperature, and as many repetitions as a long text has."""
    for sign in (-1, 1):
        params = SamplingParams(
            temperature=1e-5, repetition_penalty=1e6 if sign > 0 else 1e-6, presence_penalty=sign * 1e6,
            frequency_penalty=sign * 1e6, logit_bias={0: sign * 1e6}, top_p=1e-320, min_p=1e-320, top_k=2**31 - 1,
        )  # fmt: skip
        transform = LogitsTransform(params, [0, 1], 8)
        transform.append([0] * 100_000)
        scores = transform.scores(torch.full((2, 8), logit), [[], [0, 0, 3]])
        assert torch.isfinite(scores).any(-1).all()
        assert not torch.isnan(torch.softmax(scores, -1)).any()


def above(value: float) -> float:
    return math.nextafter(value, math.inf)


def below(value: float) -> float:
    return math.nextafter(value, -math.inf)


BOUNDS: dict[str, tuple[list[Any], list[Any]]] = {
    "max_tokens": ([1, 2**31 - 1], [0, 2**31]),
    "min_tokens": ([0, 128], [-1]),
    "temperature": ([0.0, 1e-5, 1e6], [below(0.0), below(1e-5), above(1e6)]),
    "top_k": ([0, 1, 2**31 - 1], [-1, 2**31]),
    "top_p": ([5e-324, 1.0], [0.0, above(1.0)]),
    "min_p": ([0.0, 1.0], [below(0.0), above(1.0)]),
    "repetition_penalty": ([1e-6, 1e6], [below(1e-6), above(1e6)]),
    "presence_penalty": ([-1e6, 1e6], [below(-1e6), above(1e6)]),
    "frequency_penalty": ([-1e6, 1e6], [below(-1e6), above(1e6)]),
    "logit_bias": ([{0: -1e6, 5: 1e6}], [{0: below(-1e6)}, {5: above(1e6)}]),
    "bad_words": ([[], [[0]], [[0, 1]], ["a"]], [[[]], [""]]),
    "allowed_token_ids": ([None, [0], [0, 1]], [[]]),
    "seed": ([None, 0, 2**64 - 1], [-1, 2**64]),
    "n": ([1, 2, 1024], [0, 1025]),
    "logprobs": ([None, 0, 1000], [-1, 1001]),
    "prompt_logprobs": ([None, 0, 1000], [-1, 1001]),
    "num_draft_tokens": ([None, 0], [-1]),
}
"""The outermost values that fit, and the next ones."""


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name: str) -> None:
    fit, unfit = BOUNDS[name]
    for value in fit:
        SamplingParams(**{"temperature": 1.0, name: value})
    for value in unfit:
        with pytest.raises(ConfigError, match=rf"^{name} = .* cannot work\. Give "):
            SamplingParams(**{"temperature": 1.0, name: value})


def test_nothing_is_on_unless_it_is_asked_for() -> None:
    assert {field.name: getattr(SamplingParams(), field.name) for field in fields(SamplingParams)} == {
        "max_tokens": 128, "min_tokens": 0, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0,
        "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "logit_bias": None,
        "bad_words": (), "suppress_tokens": (), "begin_suppress_tokens": (), "allowed_token_ids": None, "seed": None,
        "n": 1, "stop": (), "stop_token_ids": (), "ignore_eos": False, "include_stop_str_in_output": False,
        "skip_special_tokens": True, "logprobs": None, "prompt_logprobs": None, "num_draft_tokens": None,
        "drafter": None, "prediction": None, "cache_salt": None, "store": True, "prefix_cache": True,
        "constraint": None, "grammar": None, "rule": None,
    }  # fmt: skip


def test_values_are_kept_as_plain_numbers_and_tuples() -> None:
    params = SamplingParams(
        max_tokens=np.int64(7), temperature=np.float32(0.5), top_k=torch.tensor(4), stop="\n", bad_words=["x", [1, 2]],
        stop_token_ids=torch.tensor([3, 4]), allowed_token_ids=np.array([1, 3]), logit_bias={np.int8(1): np.float64(2)},
        seed=2**64 - 1, num_draft_tokens=0, ignore_eos=np.False_, n=np.uint8(2),
    )  # fmt: skip
    assert params == SamplingParams(
        max_tokens=7, temperature=0.5, top_k=4, stop=("\n",), bad_words=("x", (1, 2)), stop_token_ids=(3, 4),
        allowed_token_ids=(1, 3), logit_bias={1: 2.0}, seed=2**64 - 1, num_draft_tokens=0, n=2,
    )  # fmt: skip
    kinds = [type(getattr(params, name)) for name in ("max_tokens", "temperature", "top_k", "ignore_eos", "n")]
    assert kinds == [int, float, int, bool, int]
    assert [type(token) for token in params.allowed_token_ids or ()] == [int, int]
    assert SamplingParams(bad_words="x").bad_words == ("x",)
    assert SamplingParams().greedy
    assert not SamplingParams(temperature=0.5).greedy


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_tokens": 9, "max_tokens": 8}, r"min_tokens = 9 .* Raise max_tokens"),
        ({"min_tokens": 129}, r"min_tokens = 129 .* max_tokens = 128"),
        ({"n": 2, "temperature": 0}, r"n = 2 .* temperature"),
        ({"allowed_token_ids": [3, 4], "bad_words": [[4], [3]]}, r"allowed_token_ids = \(3, 4\)"),
        ({"allowed_token_ids": [3], "bad_words": [[4], [3]]}, r"allowed_token_ids = \(3,\)"),
        ({"allowed_token_ids": [3, 4], "bad_words": [[4]], "suppress_tokens": [3]}, r"allowed_token_ids = \(3, 4\)"),
        ({"stop_token_ids": [3], "suppress_tokens": [3]}, r"stop_token_ids = \(3,\)"),
        ({"stop_token_ids": [3], "allowed_token_ids": [4]}, r"stop_token_ids = \(3,\)"),
        ({"stop_token_ids": [3, 5], "bad_words": [[3], [5]]}, r"stop_token_ids = \(3, 5\)"),
        ({"min_tokens": 1, "constraint": Choices([[1]], [0], 8)}, r"min_tokens = 1 .* constraint"),
    ],
)
def test_fields_that_cannot_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingParams(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_tokens": 9, "max_tokens": 9},
        {"allowed_token_ids": [3, 4], "bad_words": [[4]]},
        {"allowed_token_ids": [3], "bad_words": [[3, 3], "x", "xy"]},
        {"allowed_token_ids": [3, 4], "suppress_tokens": [4]},
        {"stop_token_ids": [3, 5], "bad_words": [[3], [5, 5]]},
        {"stop_token_ids": [3, 5], "allowed_token_ids": [3]},
        {"stop_token_ids": [3, 5], "allowed_token_ids": [3, 5], "suppress_tokens": [3]},
        {"constraint": Choices([[1]], [0], 8), "max_tokens": 1},
    ],
    ids=str,
)
def test_fields_that_leave_a_way_go_together(settings: dict[str, Any]) -> None:
    SamplingParams(**settings)


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        ({"bad_words": [[token] for token in range(VOCAB_SIZE)]}, None),
        ({"bad_words": [[1, token] for token in range(VOCAB_SIZE)]}, None),  # after this prompt
        ({"allowed_token_ids": [0], "min_tokens": 1}, 0),
        ({"allowed_token_ids": [7], "stop_token_ids": [7], "min_tokens": 2}, None),
        ({"allowed_token_ids": [7], "begin_suppress_tokens": [7]}, None),
        ({"begin_suppress_tokens": range(VOCAB_SIZE)}, None),
        ({"constraint": Choices([[1]], [0], VOCAB_SIZE), "allowed_token_ids": [2]}, None),
        ({"constraint": Choices([[1]], [0], VOCAB_SIZE), "bad_words": [[1]]}, None),
    ],
)
def test_a_text_that_cannot_begin_is_refused_before_it_is_queued(settings: dict[str, Any], end: int | None) -> None:
    engine = small_engine(DRAFTERS["ngram"]())
    engine._intake._eos = frozenset([] if end is None else [end])
    with pytest.raises(SpecdecError, match=r"cannot begin.*Relax"):
        engine.make_request([2, 1], SamplingParams(**settings))


def test_samples_differ_in_their_seeds_alone() -> None:
    params = SamplingParams(n=3, temperature=1.0, seed=2**64 - 2, top_k=4)
    assert params.samples() == [replace(params, n=1, seed=seed) for seed in (2**64 - 2, 2**64 - 1, 0)]
    assert [one.seed for one in replace(params, seed=None).samples()] == [None] * 3
    assert [one.seed for one in replace(params, n=2).samples()] == [2**64 - 2, 2**64 - 1]
    assert SamplingParams(seed=4).samples() == [SamplingParams(seed=4)]
    with pytest.raises(ConfigError, match="n = 2"):
        SamplingParams(n=2).samples()  # greedy, unless the model says otherwise
    with pytest.raises(SpecdecError, match="samples"):
        small_engine(DRAFTERS["none"]()).make_request([1], params)


def test_a_models_defaults_stand_in_for_what_nobody_set() -> None:
    model = {"temperature": 0.7, "top_k": 20, "repetition_penalty": 1.1, "max_tokens": 99, "bad_words": ((5,),)}
    assert SamplingParams().over(model) == SamplingParams(**model)
    given = SamplingParams(temperature=0.0, top_k=0, max_tokens=128)  # the same numbers as the class's, but given
    assert given.over(model) == replace(given, repetition_penalty=1.1, bad_words=((5,),))
    assert given.over(model).over(model) == given.over(model)
    for kept in (replace(given, seed=1), copy.deepcopy(given), pickle.loads(pickle.dumps(given))):
        assert kept.over(model).temperature == 0.0
    unset = pickle.loads(pickle.dumps(replace(SamplingParams(), seed=1)))
    assert unset.over(model).temperature == 0.7
    assert repr(unset) == repr(SamplingParams(seed=1, temperature=0.0))


def test_less_than_the_models_least_length_is_the_callers_right() -> None:
    assert SamplingParams(max_tokens=3).over({"min_tokens": 5}).min_tokens == 0
    assert SamplingParams(max_tokens=5).over({"min_tokens": 5}).min_tokens == 5
    assert SamplingParams().over({"min_tokens": 5, "max_tokens": 5}).min_tokens == 5


def test_a_models_defaults_are_checked_like_a_callers() -> None:
    with pytest.raises(ConfigError, match="max_tokens = 0"):
        SamplingParams().over({"max_tokens": 0})


def test_the_page_names_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "sampling.md").read_text(encoding="utf-8")
    rows = page.partition("| field |")[2].partition("\n\n")[0].splitlines()[2:]
    names = [re.findall(r"`(\w+)`", row.split("|")[1]) for row in rows]
    assert [name for listed in names for name in listed] == [field.name for field in fields(SamplingParams)]
    marked = {name for row, listed in zip(rows, names, strict=True) if "†" in row for name in listed}
    assert marked == {field.name for field in fields(SamplingParams) if isinstance(field.default, Unset)}
