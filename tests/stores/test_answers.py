"""Answers that are kept: in their order, apart by salt, and never more than there is room for."""

from __future__ import annotations

import random

import pytest

from specdec.kernels.suffix import Bounds, draft
from specdec.stores.answers import MOST_SALTS, Answers, latest

ONE = Bounds(nodes=1, depth=1, branches=1, floor=0.0)


def follower(answers: Answers, salt: str, token: int) -> list[int]:
    """What is drafted after a token."""
    index = answers.index(salt)
    return [] if index is None else list(draft([index], [token], ONE).tokens)


def kept(answers: Answers, salt: str = "") -> list[list[int]]:
    return [list(each) for each in answers.texts(salt)]


def test_answers_are_found_under_their_own_salt_alone() -> None:
    answers = Answers(100)
    answers.add("a", [1, 2])
    answers.add("", [1, 3])
    assert [follower(answers, salt, 1) for salt in ("a", "", "b")] == [[2], [3], []]
    assert kept(answers, "a") == [[1, 2]]
    assert kept(answers, "b") == []


def test_the_older_half_goes_when_there_is_no_more_room() -> None:
    """40 tokens in texts of 5: the ninth leaves 20 of 45, which are four texts, and the index knows no others."""
    answers = Answers(40)
    for number in range(8):
        answers.add("", [number, number + 100, 0, 0, 0])
    assert len(answers) == 40
    answers.add("", [8, 108, 0, 0, 0])
    assert [text[0] for text in kept(answers)] == [5, 6, 7, 8]
    assert [follower(answers, "", number) for number in (4, 5, 8)] == [[], [105], [108]]


def test_a_salt_that_answers_much_takes_nothing_from_the_others() -> None:
    answers = Answers(1000)
    answers.add("quiet", [1, 2, 3])
    for number in range(500):
        answers.add("loud", [number] * 10)
        assert len(answers) <= 1000
    assert kept(answers, "quiet") == [[1, 2, 3]]
    assert kept(answers, "loud")[-1] == [499] * 10


def test_of_too_many_salts_the_one_that_was_used_least_recently_goes() -> None:
    answers = Answers(10**6)
    for number in range(MOST_SALTS):
        answers.add(str(number), [1, 2])
    answers.index("0")
    answers.add("new", [1, 2])
    assert follower(answers, "0", 1) == [2]
    assert follower(answers, "1", 1) == []
    assert follower(answers, "new", 1) == [2]


@pytest.mark.parametrize("text", [[], [5]])
def test_a_text_in_which_nothing_follows_is_left_out(text: list[int]) -> None:
    answers = Answers(100)
    answers.add("", text)
    assert (len(answers), kept(answers)) == (0, [])


def test_an_answer_that_does_not_fit_is_not_kept() -> None:
    answers = Answers(10)
    answers.add("", list(range(11)))
    assert (len(answers), kept(answers)) == (0, [])
    answers.add("", [1, 2])
    assert kept(answers) == [[1, 2]]


def test_ten_thousand_answers_take_no_more_memory_than_the_first_ones() -> None:
    answers, draw = Answers(2000), random.Random(0)
    most = 0
    for number in range(10_000):
        answers.add(f"salt {draw.randrange(3)}", [draw.randrange(50) for _ in range(draw.randint(0, 30))])
        assert len(answers) <= 2000
        if number < 500:
            most = max(most, answers.nbytes)
    assert most > 0
    assert answers.nbytes <= 2 * most


@pytest.mark.parametrize(("most", "left"), [(0, 0), (2, 0), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3), (99, 3)])
def test_the_latest_texts_are_whole_ones_in_their_order(most: int, left: int) -> None:
    texts = [[1, 2, 3, 4], [5, 6], [7, 8, 9]]
    assert list(latest(texts, most)) == texts[3 - left :]
