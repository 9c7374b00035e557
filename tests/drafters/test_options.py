"""Options of drafters and policies: every one through values that cannot work; what is taken drafts at once."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from specdec import ConfigError, Drafter, EngineConfig, SamplingParams
from specdec.drafters.cascade import CascadeDrafter
from specdec.drafters.early_exit import EarlyExitDrafter
from specdec.drafters.head import HeadDrafter
from specdec.drafters.layer_skip import LayerSkipDrafter
from specdec.drafters.lookahead import LookaheadDrafter
from specdec.drafters.model import ModelDrafter
from specdec.drafters.ngram import NgramDrafter
from specdec.drafters.none import NoDrafter
from specdec.drafters.prediction import PredictionDrafter
from specdec.drafters.quantized_self import QuantizedSelfDrafter
from specdec.drafters.recycling import RecyclingDrafter
from specdec.drafters.retrieval import RetrievalDrafter
from specdec.drafters.sizes import MOST_NODES
from specdec.drafters.slem import SlemDrafter
from specdec.drafters.suffix import SuffixDrafter
from specdec.drafters.tli import TliDrafter
from specdec.engine import Engine
from specdec.policy.curve import CostCurve
from specdec.policy.product import ProductPolicy
from specdec.registry import DRAFTERS, POLICIES
from specdec.stores import Store, Vocabulary
from specdec.verify.typical import TypicalRule
from tests.blockheads import random_head
from tests.engines import run
from tests.othertokenizers import with_tokenizer
from tests.tiny import VOCAB_SIZE, llama
from tests.toytokenizers import of_strings

pytestmark = pytest.mark.fewer(3)

HOSTILE: list[Any] = [
    None, True, "", "5", b"5", "\ud800", -1, 0, 0.0, 1.0, 2.5, math.nan, math.inf, 1j, Decimal(3), 10**9, 2**63,
    10**5000, [], [1], {}, {1: 2}, (), object(), len, np.float32(2), np.array([1, 2]), np.bool_(True),
]  # fmt: skip
GOOD: list[Any] = [1, 2, 5, np.int64(3), np.uint8(2), np.array(4)]


def of_other_tokens(kind: type[Drafter], options: dict[str, Any]) -> Drafter:
    """With a draft model of its own unless the options have one."""
    own = {"draft": llama(1), "draft_tokenizer": of_strings(VOCAB_SIZE, "b a")}
    return with_tokenizer(kind(**(own | options)), of_strings(VOCAB_SIZE, "ab "))


MADE: dict[str, Callable[..., Drafter]] = {
    "none": NoDrafter,
    "ngram": NgramDrafter,
    "model": lambda **options: ModelDrafter(**{"draft": llama(1), **options}),
    "tli": lambda **options: of_other_tokens(TliDrafter, options),
    "slem": lambda **options: of_other_tokens(SlemDrafter, options),
    "early_exit": EarlyExitDrafter,
    "prediction": PredictionDrafter,
    "lookahead": LookaheadDrafter,
    "layer_skip": LayerSkipDrafter,
    "quantized_self": QuantizedSelfDrafter,
    "head": lambda **options: HeadDrafter(**{"head": random_head(llama(0, num_layers=6)), **options}),
    "suffix": SuffixDrafter,
    "cascade": CascadeDrafter,
    "retrieval": lambda **options: RetrievalDrafter(Store.of([[1, 2, 1]], Vocabulary.of(VOCAB_SIZE, None)), **options),
    "recycling": lambda **options: RecyclingDrafter(**{"first": False, "contexts": 64, **options}),
}
UNLIKE = ("draft", "choices", "load_options", "stop", "stop_below", "draft_tokenizer", "pool_from_prompt", "floor",
          "shared", "store", "skip_attention", "skip_mlp", "contexts", "first", "dynamic", "stages",
          "head", "weights", "deepen")  # fmt: skip
"""Options that are no numbers; they have tests of their own."""
OPTIONS = [
    (name, option)
    for name in MADE
    for option in inspect.signature(DRAFTERS.get(name)).parameters
    if option not in UNLIKE
]
CHOICES: list[Any] = [
    0, "", "01", [[]], [], [[0, -1]], [[0.5]], [0], [["0"]], [[True]], [[10**9]], [[0] * 65], [[0]] * 1025, {0: [0]},
    [[1]], [[0, 1]], [[rank] for rank in range(1024)] + [[0, 0]], math.nan, np.zeros((2, 2, 2), dtype=int), [[None]],
]  # fmt: skip


def test_every_drafter_of_ours_is_tried() -> None:
    assert set(MADE) == set(DRAFTERS.names())
    assert {option for _, option in OPTIONS} == {
        "num_draft_tokens", "branches", "min_match", "max_match", "num_layers", "window", "ngram", "guesses",
        "max_nodes", "max_tokens", "drawn",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_is_refused_by_name_or_drafts(name: str, option: str) -> None:
    for value in HOSTILE:
        if value is None and option == "num_layers":
            continue
        with pytest.raises(ConfigError, match=f"{option} = .* cannot work. Give an integer"):
            MADE[name](**{option: value})
    target = llama(0, num_layers=6)
    for value in GOOD[option == "ngram" :]:
        options = {option: value, **({"max_match": 6} if option == "min_match" else {})}
        drafter = MADE[name](**options)
        config = EngineConfig(num_blocks=32, max_num_seqs=2)
        requests = run(Engine(target, drafter, config=config), [[1, 2, 1, 2, 1]] * 2, SamplingParams(max_tokens=6))
        assert [request.error for request in requests] == [None, None]
        assert type(drafter.num_draft_tokens) is int
    if option == "num_draft_tokens":
        assert MADE[name](num_draft_tokens=np.uint8(7)).num_draft_tokens == 7


@pytest.mark.parametrize("name", ["model", "tli", "early_exit", "head"])
@pytest.mark.parametrize("choices", CHOICES, ids=lambda value: repr(value)[:20])
def test_choices_that_are_no_tree_are_refused(name: str, choices: Any) -> None:
    with pytest.raises(ConfigError, match=r"choices|at most|Ranks count from 0"):
        MADE[name](choices=choices)


def test_the_largest_draft_is_bounded_before_it_is_made() -> None:
    assert len(NgramDrafter(num_draft_tokens=MOST_NODES // 4, branches=4).shape) == MOST_NODES
    for options in ({"num_draft_tokens": 513, "branches": 2}, {"num_draft_tokens": 2, "branches": 513}):
        with pytest.raises(ConfigError, match=r"num_draft_tokens = .* branches = .* at most 1024"):
            NgramDrafter(**options)


@pytest.mark.parametrize("name", ["model", "tli", "slem"])
@pytest.mark.parametrize("draft", [3, 2.5, True, ["a"], b"x", object(), None])
def test_a_draft_model_is_a_name_or_a_model(name: str, draft: Any) -> None:
    with pytest.raises(ConfigError, match=rf"(draft = .* Give a |The {name} drafter needs draft=<)hub id"):
        MADE[name](draft=draft)
    for options in (3, "dtype", [("dtype", "float32")], {1: 2}, {"": 2}):
        with pytest.raises(ConfigError, match="load_options = "):
            MADE[name](load_options=options)


@pytest.mark.parametrize("name", ["tli", "slem"])
@pytest.mark.parametrize("tokenizer", [3, "gpt2", True, ["a"], object(), len, {}])
def test_the_tokenizer_of_a_draft_is_one(name: str, tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match=r"draft_tokenizer = .* cannot work\. Give a tokenizer of transformers"):
        MADE[name](draft_tokenizer=tokenizer)


def test_a_cost_curve_is_a_curve_or_makes_one() -> None:
    for curve in HOSTILE:
        if curve is not None and not callable(curve):
            with pytest.raises(ConfigError, match=r"curve = .* cannot work"):
                POLICIES.create("product", curve=curve)


@pytest.mark.parametrize(
    "curve",
    [
        ((1,), (1.0,)),
        ((1, 2), (1.0,)),
        ((1, 1), (1.0, 2.0)),
        ((2, 1), (1.0, 2.0)),
        ((0, 1), (1.0, 2.0)),
        ((1, 2), (2.0, 1.0)),
        ((1, 2), (0.0, 1.0)),
        ((1, 2), (1.0, math.nan)),
        ((1, 2), (1.0, math.inf)),
        ((1.5, 2), (1.0, 2.0)),
        ("12", (1.0, 2.0)),
        ((1, 2), (1.0, 2.0), math.nan),
        ((1, 2), (1.0, 2.0), -1.0),
        ((1, 2), (1.0, 2.0), "0"),
    ],
    ids=repr,
)
def test_a_curve_that_no_machine_has_is_refused(curve: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match=r"(rows|seconds|per_token) = .* cannot work"):
        ProductPolicy(CostCurve(*curve))


@pytest.mark.parametrize("option", ["epsilon", "delta"])
def test_the_lossy_rules_thresholds_are_numbers_above_0(option: str) -> None:
    for value in (None, True, "0.1", 0, -0.1, math.nan, math.inf, 1j, [0.1]):
        with pytest.raises(ConfigError, match=f"{option} = "):
            TypicalRule(**{option: value})  # type: ignore[arg-type]
    assert getattr(TypicalRule(**{option: np.float32(0.5)}), option) == 0.5


@pytest.mark.parametrize("size", ["block_size", "num_blocks", "max_batch_tokens", "max_num_seqs"])
def test_sizes_of_the_engine_are_refused_by_name_or_kept_as_integers(size: str) -> None:
    for value in HOSTILE:
        if value is None and size == "num_blocks":
            continue
        with pytest.raises(ConfigError, match=f"{size} = "):
            EngineConfig(**{size: value})
    for value in GOOD:
        assert type(getattr(EngineConfig(**{size: value}), size)) is int
    with pytest.raises(ConfigError, match="block_size = 4096 have more slots"):
        EngineConfig(num_blocks=2**20, block_size=4096)


@pytest.mark.parametrize("head", [3, 2.5, True, "", ["a"], b"x", object()])
def test_a_head_is_a_folder_or_a_head(head: Any) -> None:
    with pytest.raises(ConfigError, match=r"head = .* cannot work. Give "):
        HeadDrafter(head)


@pytest.mark.parametrize("option", ["floor", "deepen"])
@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan, True, "0.5"])
def test_a_heads_bounds_are_chances(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"{option} = .* cannot work. Give a number from 0 to less than 1"):
        HeadDrafter(**{option: value})


@pytest.mark.parametrize("weights", [3, "", "int3", True, ["int8"]])
def test_a_heads_weights_have_a_form_that_is_known(weights: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"weights = .* cannot work. Give one of float32, bfloat16, int8, int8_weight"
    ):
        HeadDrafter(weights=weights)
