"""Predicted outputs: what is copied, how a departure is made up for, and what a wrong prediction costs."""

from __future__ import annotations

import inspect
import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec import DraftRequest, EngineConfig, SamplingParams, SpeculativeGenerator
from specdec.drafters.prediction import PredictionDrafter
from specdec.models.loading import LoadedModel
from specdec.verify.tree import KINDS, ROOT, DraftTree
from tests.drafting import draft_request

PROMPT = [90, 91, 92]


def asked(tokens: Sequence[int], prediction: Sequence[int], max_depth: int = 64, request_id: int = 0) -> DraftRequest:
    """After a prompt of the length of `PROMPT`."""
    request = draft_request(tokens, max_depth, request_id)
    return replace(request, prediction=tuple(prediction), num_prompt_tokens=len(PROMPT))


def branches(answer: Sequence[int], prediction: Sequence[int], **options: int) -> list[tuple[int, ...]]:
    """What is drafted after an answer, as the branches of the draft."""
    [tree] = PredictionDrafter(**options).propose([asked([*PROMPT, *answer], prediction)])
    return [tree.prefix(node) for node in range(len(tree)) if not tree.children(node)]


class Play:
    """Greedy decoding of a text that is known, with a drafter: what a target would verify.

    Args:
        answer: the text.
        prediction: what the user predicted.
    """

    def __init__(self, answer: Sequence[int], prediction: Sequence[int], **options: int) -> None:
        drafter, text = PredictionDrafter(**options), list(PROMPT)
        self.trees: list[DraftTree] = []
        self.gains: list[int] = []
        while len(text) < len(PROMPT) + len(answer):
            [tree] = drafter.propose([asked(text, prediction)])
            rest = answer[len(text) - len(PROMPT) :]
            gain = min(accepted(tree, rest) + 1, len(rest))
            text += rest[:gain]
            self.trees.append(tree)
            self.gains.append(gain)

    @property
    def drafted(self) -> int:
        return sum(map(len, self.trees))


def accepted(tree: DraftTree, text: Sequence[int]) -> int:
    """Length of the longest branch that the text begins with."""
    node, length = ROOT, 0
    for token in text:
        node = next((child for child in tree.children(node) if tree.tokens[child] == token), -2)
        if node < ROOT:
            break
        length += 1
    return length


@cache
def tokens_of(text: str) -> list[int]:
    """Words, and everything between them, as numbers that are the same in every text."""
    return [_numbers().setdefault(piece, len(_numbers())) for piece in re.findall(r"\w+|\s+|[^\w\s]", text)]


@cache
def _numbers() -> dict[str, int]:
    return {}


CODE = tokens_of(inspect.getsource(json.decoder))
OTHER = tokens_of(inspect.getsource(inspect.getmodule(random)))  # type: ignore[arg-type]


def test_the_first_draft_is_the_beginning_of_the_prediction() -> None:
    [first] = branches([], range(50))
    assert first == tuple(range(len(first)))
    assert len(first) >= 4


@pytest.mark.parametrize("chars", [1, 3])
def test_a_request_without_a_prediction_has_no_draft(chars: int) -> None:
    drafter = PredictionDrafter()
    trees = drafter.propose([asked([*PROMPT, *range(chars)], ()), asked(PROMPT, (1, 2, 3), request_id=1)])
    assert [len(tree) > 0 for tree in trees] == [False, True]


PREDICTION = [10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23]


@pytest.mark.parametrize(
    ("answer", "next_token"),
    [
        ([10, 11, 12, 13], 14),  # in agreement
        ([10, 11, 12, 13, 50], 15),  # one token was replaced: a guess
        ([10, 11, 12, 13, 50], 14),  # ... or inserted
        ([10, 11, 12, 13, 50, 51], 16),  # two for two: a guess
        ([10, 11, 12, 13, 50, 51, 52], 15),  # three for one: a guess
        ([10, 11, 12, 13, 50, 15], 16),  # replaced
        ([10, 11, 12, 13, 50, 51, 14], 15),  # inserted
        ([10, 11, 12, 13, 16], 17),  # two were left out
        ([10, 11, 12, 13, 10, 11], 12),  # a piece is said again
        ([10, 11, 12, 13, 50, 51, 52, 53, 54, 55, 56, 20, 21], 22),  # long after a change
    ],
)
def test_after_a_change_the_draft_goes_on_where_the_answer_does(answer: list[int], next_token: int) -> None:
    assert next_token in [branch[0] for branch in branches(answer, PREDICTION)]


def test_a_chain_is_all_that_is_drafted_if_branches_is_1() -> None:
    for answer in ([10, 11], [10, 11, 12, 13, 50], [10, 11, 12, 13, 50, 51]):
        assert len(branches(answer, PREDICTION, branches=1)) == 1


def test_a_longer_agreement_wins_over_a_nearer_one() -> None:
    prediction = [1, 2, 3, 4, 5, 6, 7, 9, 8, 30, 31, 6, 9, 8, 40, 41]
    assert branches([1, 2, 3, 4, 5, 50, 6, 9, 8], prediction)[0][:2] == (40, 41)


def test_a_change_that_was_made_twice_is_drafted_the_third_time() -> None:
    prediction = [t for i in range(10) for t in (20 + i, 30 + i, 40 + i, 50 + i, 1, 60 + i, 70 + i)]
    renamed = [t for token in prediction for t in ([2, 3] if token == 1 else [token])]
    third = renamed.index(53)  # what stands before the name
    for length in (third, third + 1, third + 2):
        assert branches(renamed[:length], prediction)[0][:2] == tuple(renamed[length : length + 2])
    undone = [*renamed[: renamed.index(54)], *prediction[prediction.index(54) :]]
    end = undone.index(57)
    assert branches(undone[: end + 1], prediction)[0][0] == 1, "the old name was said again, twice"


def test_a_change_of_a_common_token_is_not_made_elsewhere() -> None:
    """It was made twice, but between the two the token stayed what it was."""
    prediction = [t for i in range(10) for t in (20 + i, 30 + i, 40 + i, 50 + i, 1, 60 + i, 70 + i)]
    answer = [
        2 if token == 1 and prediction[place - 1] in (50, 52) else token for place, token in enumerate(prediction)
    ]
    end = answer.index(54) + 1
    assert branches(answer[:end], prediction)[0][0] == 1


def test_an_exact_prediction_takes_the_passes_that_full_drafts_take() -> None:
    """Survival grows from a half, so the first drafts are shorter."""
    play = Play(CODE[:600], CODE[:600])
    assert len(play.gains) <= -(-600 // 17) + 4
    assert all(gain == len(tree) + 1 for gain, tree in zip(play.gains[:-1], play.trees[:-1], strict=True))


def test_a_renamed_variable_costs_few_passes() -> None:
    """The bound knows everything but the new name where it stands first, which takes a pass of its own."""
    [old], new = tokens_of("end"), tokens_of("here.place")
    assert CODE.count(old) > 100
    renamed = [t for token in CODE for t in (new if token == old else [token])]
    bound = len(renamed) / (-(-len(renamed) // 17) + 1)
    tau = len(renamed) / len(Play(renamed, CODE).gains)
    assert tau > 0.9 * bound


@pytest.mark.parametrize("seed", range(3))
def test_edits_all_over_a_text_leave_most_of_the_gain(seed: int) -> None:
    """One edit each 25 tokens or so. The bound: what lies between two edits is drafted in full, each edit is one token
    of the target's own."""
    draw = random.Random(seed)
    edited: list[int] = []
    segments, since = [], 0
    for token in CODE[:1500]:
        since += 1
        if draw.random() < 0.96:
            edited.append(token)
            continue
        segments.append(since)
        since = 0
        edited += draw.choice([[], [9999], [9998, token], [token, 9997, 9996], [9995, 9994]])
    bound = len(edited) / sum(-(-length // 17) + 1 for length in segments)
    assert len(edited) / len(Play(edited, CODE[:1500]).gains) > 0.7 * bound


def test_a_prediction_of_another_text_is_left_alone() -> None:
    """Of one language, and so with many pairs of tokens in common."""
    play = Play(OTHER[:2000], CODE)
    assert play.drafted < 2000 * 0.75
    assert sum(len(tree) > 0 for tree in play.trees) < 0.15 * len(play.trees)
    nonsense = Play(range(1000, 2000), CODE)
    assert nonsense.drafted < 10
    assert not any(map(len, nonsense.trees[1:]))


def test_a_text_that_comes_back_to_its_prediction_is_drafted_again() -> None:
    answer = [*OTHER[:500], *CODE[1000:1400]]
    play = Play(answer, CODE)
    assert sum(play.gains[-20:]) > 200


small_texts = st.lists(st.integers(0, 3), max_size=30)


@given(small_texts, small_texts.filter(bool), st.lists(st.integers(1, 5), max_size=8), st.integers(1, 6))
def test_a_draft_is_a_function_of_prompt_answer_and_prediction(
    answer: list[int], prediction: list[int], increments: list[int], depth: int
) -> None:
    """Whoever was asked on the way drafts as one that is asked once; drafts keep to their limits."""
    drafter, end = PredictionDrafter(8, 2), 0
    for increment in [*increments, len(answer)]:
        end = min(end + increment, len(answer))
        request = asked([*PROMPT, *answer[:end]], prediction, depth)
        [one], [again], [fresh] = (
            drafter.propose([request]),
            drafter.propose([request]),
            PredictionDrafter(8, 2).propose([request]),
        )
        assert (one.tokens, one.parents, one.kinds, one.chances) == (
            fresh.tokens,
            fresh.parents,
            fresh.kinds,
            fresh.chances,
        )
        assert (again.tokens, again.parents) == (one.tokens, one.parents)
        assert len(one) <= drafter.max_nodes(depth) <= 8
        assert one.depth <= depth
        for parent in {*one.parents}:
            assert sum(one.chances[child] for child in one.children(parent)) <= 1 + 1e-9
            assert all(0 <= one.kinds[child] < KINDS for child in one.children(parent))


def test_an_ended_request_is_forgotten_and_its_number_begins_anew() -> None:
    drafter = PredictionDrafter()
    drafter.propose([asked([*PROMPT, 1, 2, 3], range(20)), asked([*PROMPT, 5], range(20), request_id=1)])
    drafter.end(0, [])
    drafter.end(7, [])
    assert list(drafter._readers) == [1]
    [tree] = drafter.propose([asked(PROMPT, range(40, 60))])
    assert tree.tokens[0] == 40


def test_a_user_predicts_a_text(embedded: LoadedModel) -> None:
    """The text is the same, and is there in fewer passes; a prediction in other words changes nothing either."""
    params = SamplingParams(max_tokens=48)
    with SpeculativeGenerator(embedded, "prediction", config=EngineConfig(num_blocks=256, max_num_seqs=4)) as generator:
        prompt = "Count: one, two, three,"
        [plain] = generator.generate(prompt, params)
        assert plain.stats.drafted_tokens == 0
        texts = [plain.text, plain.text.replace("f", "F"), "Nothing of the kind will be said."]
        each = [replace(params, prediction=text) for text in texts]
        right, changed, wrong = generator.generate([prompt] * 3, each)
    assert plain.token_ids == right.token_ids == changed.token_ids == wrong.token_ids
    assert right.stats.passes < changed.stats.passes < plain.stats.passes
    assert right.stats.passes <= 8
    usage = changed.stats.of("prediction")
    assert 0 < usage.accepted_tokens < usage.drafted_tokens == changed.stats.drafted_tokens
    assert wrong.stats.drafted_tokens < 20
