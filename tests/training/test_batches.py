"""Every text once an epoch; blocks begin in answers alone; all of it the same whenever it is asked for."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from specdec.errors import ConfigError
from specdec.training.batches import Batches, Batching, Texts, batch_of

PAIRS = [([90 + n] * (1 + n % 4), list(range(10 * n, 10 * n + 2 + n % 6))) for n in range(23)]
SIZES = Batching(texts=4, anchors=3, max_length=64, seed=5)


def test_an_epoch_has_every_text_once_and_another_order_than_the_next() -> None:
    batches = Batches(Texts(PAIRS), SIZES)
    epochs = [[tuple(row) for step in range(5 * n, 5 * n + 5) for row in batches[step].tokens.tolist()] for n in (0, 1)]
    assert batches.per_epoch == 5
    assert all(max(Counter(epoch).values()) == 1 for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_batch_depends_on_its_step_alone() -> None:
    one, two = (Batches(Texts(PAIRS), SIZES) for _ in range(2))
    late = two[7]
    for step in range(8):
        early = one[step]
    assert all(torch.equal(getattr(early, name), getattr(late, name)) for name in vars(late))


def test_tokens_stand_where_they_stood_and_nothing_behind_them() -> None:
    batch = batch_of(Texts(PAIRS), [4, 9], SIZES)
    for row, index in enumerate([4, 9]):
        whole = [*PAIRS[index][0], *PAIRS[index][1]]
        assert batch.tokens[row].tolist()[: len(whole)] == whole
        assert not batch.tokens[row, len(whole) :].any()
        assert batch.lengths[row] == len(whole)
        assert batch.starts[row] == len(PAIRS[index][0])


def test_a_part_of_texts_keeps_their_numbers() -> None:
    texts = Texts(PAIRS, 100)
    whole, part = batch_of(texts, [4, 9], SIZES), batch_of(texts.part([9, 3, 4]), [2, 0], SIZES)
    assert all(torch.equal(getattr(whole, name), getattr(part, name)) for name in vars(whole))
    assert whole.numbers.tolist() == [104, 109]
    assert len(texts.part([])) == 0


@pytest.mark.parametrize("longest", [64, 7])
def test_anchors_are_tokens_of_the_answer_that_have_another_behind_them(longest: int) -> None:
    sizes = Batching(texts=4, anchors=3, max_length=longest, seed=5)
    batches, seen = Batches(Texts(PAIRS), sizes), set()
    for step in range(60):
        batch = batches[step]
        for row in range(4):
            anchors = batch.anchors[row][batch.mask[row]].tolist()
            possible = range(int(batch.starts[row]), int(batch.lengths[row]) - 1)
            assert anchors == sorted(set(anchors))
            assert set(anchors) <= set(possible)
            assert len(anchors) == min(len(possible), batch.anchors.shape[1])
            seen |= {(int(batch.tokens[row, 0]), anchor) for anchor in anchors}
    every = sum(min(len(p) + len(a), longest) - len(p) - 1 for p, a in PAIRS if min(len(p) + len(a), longest) > len(p))
    assert len(seen) == every  # random, so each comes in the end (20 of these texts have over 60 draws)


def test_rows_stop_at_the_end_of_the_text() -> None:
    batch = batch_of(Texts([([1, 2], [3, 4, 5, 6])]), [0], Batching(anchors=9))
    assert batch.anchors.tolist() == [[2, 3, 4]]
    assert batch.rows(3)[0].tolist() == [[True] * 3, [True, True, False], [True, False, False]]


def test_parts_are_the_whole() -> None:
    batch = Batches(Texts(PAIRS), SIZES)[0]
    parts = [batch.part(number, 2) for number in range(2)]
    assert torch.equal(torch.stack([part.tokens for part in parts], 1).flatten(0, 1), batch.tokens)
    assert sum(int(part.rows(2).sum()) for part in parts) == int(batch.rows(2).sum())


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"1 texts have two tokens .* needs 4"):
        Batches(Texts([([1], [2, 3]), ([1], [2])]), SIZES)
