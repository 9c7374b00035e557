"""Which prompts are taken."""

from __future__ import annotations

import pytest

from specdec import ConfigError
from specdec.prompts import PromptRecord
from specdec.prompts.subsets import choose, fingerprint, of_categories

RECORDS = [PromptRecord(str(i), category, f"prompt {i}") for i, category in enumerate("aababbaaac")]


def ids(records: list[PromptRecord]) -> str:
    return "".join(record.question_id for record in records)


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [(None, "0123456789"), (100, "0123456789"), (10, "0123456789"), (3, "029"), (5, "01249"), (8, "01234569"), (0, "")],
)
def test_as_many_as_wanted_evenly_from_all_categories_in_order(limit: int | None, wanted: str) -> None:
    """Small categories give all they have; large ones fill the rest."""
    assert ids(choose(RECORDS, limit)) == wanted


def test_an_even_choice_takes_all_kinds_of_a_group() -> None:
    kinds = ["x", "x", "x", "y", "y", "z", None, None]
    records = [
        PromptRecord(str(index), "group" if kind else "alone", "?", kind=kind) for index, kind in enumerate(kinds)
    ]
    assert [ids(choose(records, limit)) for limit in (2, 4, 5, 6)] == ["06", "0367", "03567", "013567"]


def test_the_first_few() -> None:
    assert ids(choose(RECORDS, 3, "first")) == "012"
    assert ids(choose(RECORDS, 30, "first")) == "0123456789"


def test_a_random_subset_is_its_seeds_and_in_order() -> None:
    chosen = {seed: ids(choose(RECORDS, 4, "random", seed)) for seed in range(20)}
    assert chosen == {seed: ids(choose(RECORDS, 4, "random", seed)) for seed in range(20)}
    assert len(set(chosen.values())) > 10
    assert all(list(text) == sorted(set(text)) and len(text) == 4 for text in chosen.values())
    assert {token for text in chosen.values() for token in text} == set("0123456789")
    assert ids(choose(RECORDS, 99, "random")) == "0123456789"
    assert ids(choose(RECORDS, 4, "random")) == chosen[0]


def test_categories_keep_their_order_and_an_unknown_one_is_refused() -> None:
    assert ids(of_categories(RECORDS, ["c", "b"])) == "2459"
    with pytest.raises(ConfigError, match=r"category 'z'\. There are: a, b, c"):
        of_categories(RECORDS, ["a", "z"])


def test_a_category_may_be_named_by_its_group_or_its_kind() -> None:
    records = [PromptRecord("0", "talk", "?", kind="math"), PromptRecord("1", "talk", "?", kind="stem"), RECORDS[0]]
    assert ids(of_categories(records, ["talk"])) == "01"
    assert ids(of_categories(records, ["stem", "a"])) == "10"
    with pytest.raises(ConfigError, match=r"There are: a, math, stem, talk"):
        of_categories(records, ["z"])


def test_a_fingerprint_is_of_content_and_order() -> None:
    assert fingerprint(RECORDS) == fingerprint(list(RECORDS))
    others = [RECORDS[1:], RECORDS[::-1], [*RECORDS[:-1], PromptRecord("9", "c", "prompt")],
              [*RECORDS[:-1], PromptRecord("9", "a", "prompt 9")],
              [*RECORDS[:-1], PromptRecord("9", "c", "prompt 9", ("And?",))]]  # fmt: skip
    assert len({fingerprint(RECORDS), *map(fingerprint, others)}) == 6
    assert len(fingerprint([])) == 16
