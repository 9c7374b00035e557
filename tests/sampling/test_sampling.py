"""The sampling transform against transformers' processors, hand-written tables and its own invariances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from specdec.errors import ConfigError, NumericalError
from specdec.sampling import (
    Choices,
    LogitsTransform,
    SamplingParams,
    log_probability,
    probabilities,
    sample_from_weights,
    top_log_probabilities,
)

pytestmark = pytest.mark.fewer(3)

VOCAB = 101
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3]
PATHS: list[list[int]] = [[], [7], [7, 1], [7, 1, 7], [50, 50, 50], [8, 4, 1, 4]]
BAD_WORDS = [[13], [2, 6, 5, 3, 60], [7, 61], [1, 62], [7, 1, 63], [4, 1, 4, 64], [9, 9, 65], [9, 7, 1, 66]]

SETTINGS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.7},
    "temperature of two": {"temperature": 2.0},
    "top_k": {"temperature": 1.0, "top_k": 7},
    "top_k beyond the vocabulary": {"temperature": 1.0, "top_k": 1000},
    "top_p": {"temperature": 1.0, "top_p": 0.8},
    "top_p of one token": {"temperature": 1.0, "top_p": 1e-6},
    "top_p of nearly all": {"temperature": 1.0, "top_p": 0.999},
    "min_p": {"temperature": 1.0, "min_p": 0.1},
    "min_p of the first": {"temperature": 1.0, "min_p": 1.0},
    "repetition": {"temperature": 1.0, "repetition_penalty": 1.3},
    "repetition rewarded": {"temperature": 1.0, "repetition_penalty": 0.6},
    "logit_bias": {"temperature": 1.0, "logit_bias": {0: 2.5, 7: -100.0, 100: 0.1}},
    "bad_words": {"temperature": 1.0, "bad_words": BAD_WORDS},
    "top_k top_p": {"temperature": 1.0, "top_k": 20, "top_p": 0.6},
    "all warpers": {"temperature": 1.4, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
    "all": {
        "temperature": 0.8,
        "top_k": 30,
        "top_p": 0.95,
        "min_p": 0.02,
        "repetition_penalty": 1.2,
        "logit_bias": {7: 3.0, 13: 50.0, 62: 1.0},
        "bad_words": BAD_WORDS,
    },
    "greedy": {
        "top_k": 3,
        "top_p": 0.5,
        "min_p": 0.5,
        "repetition_penalty": 1.2,
        "logit_bias": {7: 3.0},
        "bad_words": BAD_WORDS,
    },
}
EVERYTHING = {**SETTINGS["all"], "presence_penalty": 0.3, "frequency_penalty": 0.17}


def random_logits(rows: int, vocab: int = VOCAB, seed: int = 0, ties: bool = False) -> Tensor:
    logits = torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 2.5
    return logits.round() if ties else logits


def transform_for(vocab: int = VOCAB, **settings: Any) -> LogitsTransform:
    return LogitsTransform(SamplingParams(**settings), PROMPT, vocab)


class KeepFirstOfTies(LogitsProcessor):
    """Which of tied tokens transformers keeps is its sort's choice; our rule is the lowest ids."""

    def __init__(self, warper: LogitsProcessor) -> None:
        self.warper = warper

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        untied = scores - 1e-12 * torch.arange(scores.shape[-1], dtype=torch.float64)
        return scores.masked_fill(self.warper(input_ids, untied).isinf(), -math.inf)


def oracle(logits: Tensor, histories: Sequence[Sequence[int]], params: SamplingParams) -> Tensor:
    """transformers' processors in generate()'s order, in float64 where they sum."""
    processors: list[LogitsProcessor] = []
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.logit_bias:
        biases = [[[token], bias] for token, bias in params.logit_bias.items()]
        processors.append(SequenceBiasLogitsProcessor(biases))
    if params.bad_words:
        processors.append(NoBadWordsLogitsProcessor([list(word) for word in params.bad_words]))
    if not params.greedy:
        processors.append(TemperatureLogitsWarper(float(params.temperature)))
        if params.top_k:
            processors.append(TopKLogitsWarper(params.top_k))
        if params.top_p < 1:
            processors.append(KeepFirstOfTies(TopPLogitsWarper(params.top_p)))
        if params.min_p:
            processors.append(MinPLogitsWarper(params.min_p))
    rows = []
    for row, history in zip(logits, histories, strict=True):
        ids, scores = torch.tensor([list(history)]), row[None]
        for processor in processors:
            wide = isinstance(processor, KeepFirstOfTies | MinPLogitsWarper)
            scores = processor(ids, scores.double()).float() if wide else processor(ids, scores)
        rows.append(scores[0])
    return torch.stack(rows)


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_agrees_with_transformers(settings: dict[str, Any], ties: bool) -> None:
    for seed in range(10):
        logits = random_logits(len(PATHS), seed=seed, ties=ties)
        transform = transform_for(**settings)
        transform.append([10, 9, 9])
        histories = [[*PROMPT, 10, 9, 9, *path] for path in PATHS]
        expected = oracle(logits, histories, transform.params)
        torch.testing.assert_close(transform.scores(logits, PATHS), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0], ids=lambda scale: f"scale {scale}")
@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.99])
def test_top_p_of_a_large_vocabulary(scale: float, top_p: float) -> None:
    """The definition, in float64: nothing larger is left out, and the smallest kept is what reaches top_p."""
    logits = random_logits(3, vocab=20_011, seed=5) * scale
    scores = transform_for(vocab=20_011, temperature=1.0, top_p=top_p).scores(logits, [[], [], []])
    for row, p, kept in zip(logits, logits.double().softmax(-1), scores.isfinite(), strict=True):
        assert row[kept].min() >= row[~kept].max()
        assert p[kept].sum() > top_p - 1e-6
        assert p[kept].sum() - p[kept].min() < top_p + 1e-6


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(0.1, [1]), (0.35, [1, 2]), (0.85, [1, 2, 4]), (0.92, [0, 1, 2, 4]), (0.97, [0, 1, 2, 4, 5])],
)
def test_top_p_keeps_the_fewest_and_of_ties_the_first(top_p: float, kept: list[int]) -> None:
    p = torch.tensor([[0.05, 0.3, 0.3, 0.0, 0.3, 0.05, 0.0, 0.0, 0.0, 0.0]])
    scores = transform_for(vocab=10, temperature=1.0, top_p=top_p).scores(p.log(), [[]])
    assert torch.isfinite(scores[0]).nonzero().squeeze(-1).tolist() == kept


def test_top_k_keeps_all_ties_of_the_kth() -> None:
    logits = torch.tensor([[5.0, 1.0, 3.0, 3.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]])
    scores = transform_for(vocab=10, temperature=1.0, top_k=3).scores(logits, [[]])
    assert torch.isfinite(scores[0]).nonzero().squeeze(-1).tolist() == [0, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        # token: 0 unseen, 3 in the prompt, 7 once in the path, 8 twice in the output, 9 in all three
        ({"presence_penalty": 0.5}, {0: 0.0, 3: 0.0, 7: -0.5, 8: -0.5, 9: -0.5}),
        ({"frequency_penalty": 0.25}, {0: 0.0, 3: 0.0, 7: -0.25, 8: -0.5, 9: -0.75}),
        ({"presence_penalty": 0.5, "frequency_penalty": 0.25}, {0: 0.0, 3: 0.0, 7: -0.75, 8: -1.0, 9: -1.25}),
        ({"presence_penalty": -1.0}, {0: 0.0, 3: 0.0, 7: 1.0, 8: 1.0, 9: 1.0}),
        # logits are 4: the repetition penalty divides by 2 first, in the prompt too
        ({"repetition_penalty": 2.0, "frequency_penalty": 0.5}, {0: 0.0, 3: -2.0, 7: -2.5, 8: -3.0, 9: -3.5}),
    ],
)
def test_penalties_count_output_and_path(settings: dict[str, float], change: dict[int, float]) -> None:
    transform = transform_for(vocab=10, **settings)
    transform.append([8, 9, 8])
    scores = transform.scores(torch.full((1, 10), 4.0), [[7, 9, 9]])
    assert {token: float(scores[0, token]) - 4.0 for token in change} == change


@pytest.mark.parametrize(
    ("prompt", "path", "banned"),
    [
        ((2,), (), []),
        ((6,), (), [8]),
        ((2, 6), (), [5, 8]),
        ((), (2, 6), [5, 8]),
        ((2,), (6,), [5, 8]),
        ((2, 6, 6), (), [8]),
        ((9, 2, 6), (), [5, 8]),
        ((2, 9), (6,), [8]),
    ],
)
@pytest.mark.parametrize("commit", [False, True])
def test_a_bad_word_is_banned_where_its_beginning_stands(
    prompt: tuple[int, ...], path: tuple[int, ...], banned: list[int], commit: bool
) -> None:
    """Also where the text so far is no longer than that beginning."""
    transform = LogitsTransform(SamplingParams(bad_words=[[2, 6, 5], [6, 8]]), prompt, 10)
    if commit:
        transform.append(path)
    [scores] = transform.scores(torch.zeros(1, 10), [() if commit else path])
    assert scores.isinf().nonzero().flatten().tolist() == banned


def test_ends_come_no_earlier_and_beginnings_once() -> None:
    """By hand: which tokens are banned after so many committed and so many drafted ones."""
    params = SamplingParams(min_tokens=3, begin_suppress_tokens=[4])
    transform = LogitsTransform(params, [1], 6, ends=[5, 0])
    paths = [[1] * n for n in range(5)]
    for written in range(5):
        banned = [row.isinf().nonzero().flatten().tolist() for row in transform.scores(torch.zeros(5, 6), paths)]
        assert banned == [([0, *[4] * (n == 0), 5] if n < 3 else []) for n in range(written, written + 5)]
        transform.append([1])


@pytest.mark.parametrize(
    ("settings", "ends", "identity", "edits"),
    [
        ({}, [], True, False),
        ({"temperature": 1.0}, [], False, False),
        ({"top_k": 3, "top_p": 0.5, "min_p": 0.5}, [], True, False),
        ({"logit_bias": {1: 1.0}}, [], False, True),
        ({"bad_words": [[1]]}, [], False, True),
        ({"presence_penalty": 0.5, "temperature": 1.0}, [], False, True),
        ({"suppress_tokens": [1]}, [], False, True),
        ({"allowed_token_ids": [1]}, [], False, True),
        ({"constraint": Choices([[1]], [0], 6)}, [], False, True),
        ({"min_tokens": 2}, [5], False, True),
        ({"min_tokens": 2}, [], True, False),
        ({"begin_suppress_tokens": [5]}, [], False, True),
    ],
    ids=str,
)
def test_what_a_transform_says_of_itself(
    settings: dict[str, Any], ends: list[int], identity: bool, edits: bool
) -> None:
    """Who relies on it looks at logits alone."""
    transform = LogitsTransform(SamplingParams(**settings), [1], 6, ends=ends)
    assert (transform.identity, transform.edits) == (identity, edits)
    logits = torch.tensor([[-1.0, -2.0, 3.0, 4.0, 5.0, 6.0]])
    assert torch.equal(transform.scores(logits, [[1]]), logits) or not identity


def test_identity_returns_when_the_beginning_is_over() -> None:
    transform = LogitsTransform(SamplingParams(min_tokens=2, begin_suppress_tokens=[3]), [1], 6, ends=[5])
    found = []
    for _ in range(4):
        found.append(transform.identity)
        transform.append([1])
    assert found == [False, False, True, True]


TREE = ((0, 1, 3, 2, 2, 2), (-1, 0, 0, 1, -1, 2))
TREE_PATHS = [(), (0,), (0, 1), (0, 3), (0, 1, 2), (2,), (0, 3, 2)]
TEXTS = [[0, 1], [0, 1, 2], [0, 2], [1, 2]]


def test_a_constraint_reads_a_tree_as_it_reads_each_path() -> None:
    """The text is one of TEXTS and then 4. Rows that no text reaches are zeros; those of a lone path fail."""
    params = SamplingParams(constraint=Choices(TEXTS, [4], 5))
    transform = LogitsTransform(params, [], 5)
    logits = random_logits(len(TREE_PATHS), vocab=5)
    scores = transform.scores(logits, TREE_PATHS, [-1, *(parent + 1 for parent in TREE[1])])
    allowed = {(): [0, 1], (0,): [1, 2], (0, 1): [2, 4], (0, 1, 2): [4]}
    for row, path, given in zip(scores, TREE_PATHS, logits, strict=True):
        if path not in allowed:
            assert row.tolist() == [0.0] * 5
            with pytest.raises(NumericalError):
                transform.scores(given[None], [path])
            continue
        assert row.isfinite().nonzero().flatten().tolist() == allowed[path]
        assert torch.equal(transform.scores(given[None], [path])[0], row)
    assert transform.forbidden(*TREE) == [2, 4, 5]
    assert transform.forbidden((), ()) == []
    assert transform_for().forbidden(*TREE) == []
    transform.append([0, 1])
    assert transform.forbidden((4, 2, 4, 0), (-1, -1, 1, 1)) == [3]
    assert params.constraint is not None
    assert params.constraint.masks((), ())[0].tolist() == [True, True, False, False, False]  # a fork was used


def test_rows_below_a_banned_token_have_no_say() -> None:
    """Whatever bans it, at the root of the draft or further down; the other rows are what they are alone."""
    for settings in ({"bad_words": [[0]]}, {"suppress_tokens": [0]}, {"allowed_token_ids": [1, 2, 3, 4]}):
        transform = LogitsTransform(SamplingParams(**settings), [1], 5)
        paths, parents = [(), (0,), (1,), (0, 1), (1, 0), (1, 2), (1, 0, 3)], [-1, 0, 0, 1, 2, 2, 4]
        logits = random_logits(7, vocab=5)
        scores = transform.scores(logits, paths, parents)
        unread = [bool((row == 0).all()) for row in scores]
        assert unread == [False, True, False, True, True, False, True]
        for row in (0, 2, 5):
            assert torch.equal(scores[row], transform.scores(logits[row : row + 1], [paths[row]])[0])


def test_a_models_own_bans_are_left_to_it() -> None:
    """With every step off the logits of a tree come back as they are, -inf and all."""
    logits = random_logits(3, vocab=5)
    logits[0, 1] = -math.inf
    before = logits.clone()
    for settings in ({}, {"temperature": 1.0}):
        scores = LogitsTransform(SamplingParams(**settings), [], 5).scores(logits, [(), (1,), (1, 2)], [-1, 0, 1])
        assert scores is logits
        assert torch.equal(logits, before)


@pytest.mark.parametrize("settings", [*SETTINGS.values(), EVERYTHING], ids=[*SETTINGS, "everything"])
def test_path_equals_committing_its_tokens(settings: dict[str, Any]) -> None:
    for seed, path in enumerate(PATHS):
        logits = random_logits(1, seed=seed)
        drafted, committed = transform_for(**settings), transform_for(**settings)
        for transform in (drafted, committed):
            transform.append([9, 1])
            transform.scores(logits, [[]])  # whatever is cached by a first call must not go stale
        before = drafted.scores(logits, [[]])
        for token in path:
            committed.append([token])
        assert torch.equal(drafted.scores(logits, [path]), committed.scores(logits, [[]]))
        assert torch.equal(drafted.scores(logits, [[]]), before)


@pytest.mark.parametrize("vocab", [VOCAB, 49_152])
@pytest.mark.parametrize("settings", [*SETTINGS.values(), EVERYTHING], ids=[*SETTINGS, "everything"])
def test_rows_do_not_depend_on_each_other(settings: dict[str, Any], vocab: int) -> None:
    logits = random_logits(len(PATHS), vocab, seed=3)
    transform = transform_for(vocab=vocab, **settings)
    transform.append([9, 1])
    together = transform.scores(logits, PATHS)
    alone = torch.cat([transform.scores(logits[r : r + 1], [path]) for r, path in enumerate(PATHS)])
    assert torch.equal(together, alone)
    assert torch.equal(probabilities(together), torch.cat([probabilities(row[None]) for row in alone]))
    assert torch.equal(probabilities(together), torch.stack([probabilities(row) for row in alone]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_input_is_not_modified(dtype: torch.dtype) -> None:
    logits = random_logits(len(PATHS)).to(dtype)
    before = logits.clone()
    for settings in [*SETTINGS.values(), EVERYTHING]:
        scores = transform_for(**settings).scores(logits, PATHS)
        assert scores.dtype == torch.float32
        assert torch.equal(logits, before)


def test_non_contiguous_logits() -> None:
    wide = random_logits(len(PATHS), vocab=2 * VOCAB)
    transform = transform_for(**EVERYTHING)
    for view in (wide[:, ::2], wide[:, :VOCAB], random_logits(VOCAB, vocab=len(PATHS)).T):
        assert torch.equal(transform.scores(view, PATHS), transform.scores(view.contiguous(), PATHS))


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"top_k": 5, "top_p": 0.5}], ids=str)
def test_nothing_switched_on_returns_the_logits_themselves(settings: dict[str, Any]) -> None:
    logits = random_logits(2)
    assert transform_for(**settings).scores(logits, [[], [1]]) is logits
    narrow = logits.bfloat16()
    assert torch.equal(transform_for(**settings).scores(narrow, [[], []]), narrow.float())


def test_no_rows() -> None:
    assert transform_for(**EVERYTHING).scores(torch.empty(0, VOCAB), []).shape == (0, VOCAB)


def test_bad_words_given_as_strings_are_banned_by_their_ids() -> None:
    params = SamplingParams(bad_words=["cake", [9, 10]])
    transform = LogitsTransform(params, PROMPT, VOCAB, bad_words=[[20, 21], [22]])
    scores = transform.scores(torch.zeros(3, VOCAB), [[], [20], [9]])
    banned = [torch.isinf(row).nonzero().squeeze(-1).tolist() for row in scores]
    assert banned == [[22], [21, 22], [10, 22]]
    with pytest.raises(ConfigError, match="tokenize"):
        LogitsTransform(params, PROMPT, VOCAB)


def test_everything_banned() -> None:
    words = [[token] for token in range(9)] + [[5, 9]]
    transform = LogitsTransform(SamplingParams(bad_words=words), [5], 10)
    assert transform.scores(torch.zeros(1, 10), [[9]])[0].isfinite().nonzero().tolist() == [[9]]
    with pytest.raises(NumericalError, match=r"Row 1: .*bad_words"):
        transform.scores(torch.zeros(2, 10), [[9], []])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, EVERYTHING], ids=["greedy", "plain", "all"])
def test_broken_logits(settings: dict[str, Any], value: float) -> None:
    logits = random_logits(2)
    logits[1, 17] = value
    with pytest.raises(NumericalError, match=r"Row 1: .*(nan|inf)"):
        transform_for(**settings).scores(logits, [[], []])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 2.0),
        ("temperature", -0.1),
        ("temperature", 1e-9),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", math.nan),
        ("presence_penalty", math.nan),
        ("presence_penalty", math.inf),
        ("frequency_penalty", math.nan),
        ("frequency_penalty", -math.inf),
        ("frequency_penalty", 1e300),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: -math.inf}),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {"1": 1.0}),
        ("bad_words", [""]),
        ("bad_words", [[]]),
        ("bad_words", [[-1]]),
        ("bad_words", [5]),
        ("bad_words", [["a"]]),
        ("seed", -1),
        ("seed", 2**64),
        ("seed", 0.5),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("num_draft_tokens", -1),
        ("num_draft_tokens", 1.5),
    ],
)
def test_invalid_parameters(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{name} = .* cannot work. Give \w+"):
        SamplingParams(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("token", [-1, VOCAB])
def test_unknown_token_ids(token: int) -> None:
    with pytest.raises(ConfigError, match="prompt"):
        LogitsTransform(SamplingParams(), [0, token], VOCAB)
    with pytest.raises(ConfigError, match="bad_words"):
        LogitsTransform(SamplingParams(), [0], VOCAB, bad_words=[[0, token]])
    with pytest.raises(ConfigError, match="output"):
        transform_for().append([0, token])
    with pytest.raises(ConfigError, match="end a text"):
        LogitsTransform(SamplingParams(), [0], VOCAB, ends=[0, token])
    with pytest.raises(ConfigError, match="logit_bias"):
        transform_for(logit_bias={VOCAB: 1.0})
    for name in ("suppress_tokens", "begin_suppress_tokens", "allowed_token_ids"):
        with pytest.raises(ConfigError, match=f"Token id {VOCAB} in {name}"):
            transform_for(**{name: [0, VOCAB]})


@pytest.mark.parametrize("shape", [(2, VOCAB), (1, VOCAB - 1), (VOCAB,)], ids=str)
def test_shapes_must_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="one row per path"):
        transform_for().scores(torch.zeros(shape), [[]])


def test_probabilities() -> None:
    scores = random_logits(4)
    scores[:, 5] = -math.inf
    p = probabilities(scores.bfloat16())
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, scores.bfloat16().double().softmax(-1).float())
    assert bool((p[:, 5] == 0).all())


@pytest.mark.parametrize("weights", [[0, 1, 2, 0, 5, 0], [8], [0, 0, 8], [8, 0, 0], [1, 1, 0, 0, 6]], ids=str)
@pytest.mark.parametrize("scale", [1.0, 0.125, 3.7e-30], ids=str)
def test_inverse_cdf_has_exact_frequencies(weights: list[int], scale: float) -> None:
    """On the midpoints of an even grid each token of weight w / 8 takes exactly w / 8 of the points."""
    points = [(i + 0.5) / 800 for i in range(800)]
    tensor = torch.tensor(weights, dtype=torch.float32) * scale
    tokens = [sample_from_weights(tensor, u) for u in points]
    assert tokens == sorted(tokens)
    assert [tokens.count(token) for token in range(len(weights))] == [100 * weight for weight in weights]


@pytest.mark.parametrize("u", [0.0, 5e-324, 0.5 / 2**32, 1 - 0.5 / 2**32, math.nextafter(1.0, 0.0), 1.0])
def test_inverse_cdf_never_returns_a_token_of_weight_zero(u: float) -> None:
    for seed in range(20):
        weights = torch.rand(1000, generator=torch.Generator().manual_seed(seed))
        weights[weights < 0.5] = 0.0
        weights[[0, 1, -2, -1]] = 0.0
        for scale in (1.0, 1e-4):  # a total above 1, and one below
            assert (scale * weights)[sample_from_weights(scale * weights, u)] > 0


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, math.nan], [1.0, math.inf], [2.0, -1.0]], ids=str)
def test_weights_without_a_distribution(weights: list[float]) -> None:
    with pytest.raises(NumericalError, match="No token can be drawn"):
        sample_from_weights(torch.tensor(weights), 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_log_probability(dtype: torch.dtype) -> None:
    logits = random_logits(5, vocab=49_152).to(dtype)
    tokens = torch.tensor([0, 49_151, 7, 7, 1000])
    result = log_probability(logits, tokens)
    assert result.dtype == torch.float32
    expected = logits.double().log_softmax(-1)[range(5), tokens].float()
    torch.testing.assert_close(result, expected, rtol=0, atol=4e-6)
    alone = [log_probability(logits[r : r + 1], tokens[r : r + 1]) for r in range(5)]
    assert torch.equal(result, torch.cat(alone))
    assert torch.equal(result, log_probability(logits, tokens.tolist()))
    assert log_probability(logits[:0], []).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("k", [0, 1, 3, 60, 61])
def test_the_most_probable_tokens(dtype: torch.dtype, k: int) -> None:
    """Beside a sort in float64; no more than there are."""
    logits = (torch.randperm(120, generator=torch.Generator().manual_seed(1)).reshape(2, 60) / 8).to(dtype)
    found = top_log_probabilities(logits, k)
    assert len(found) == 2
    for row, listed in zip(logits, found, strict=True):
        p = row.double().softmax(-1).log().tolist()
        want = sorted(range(60), key=lambda token: -p[token])[:k]
        assert [token for token, _ in listed] == want
        assert [value for _, value in listed] == pytest.approx([p[token] for token in want], abs=4e-6)
    assert top_log_probabilities(logits[1:], k) == found[1:]
    assert top_log_probabilities(logits[:0], k) == []
