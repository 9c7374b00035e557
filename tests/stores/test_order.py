"""The suffix order against Python's own sort of the suffixes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specdec.stores.order import DEPTH, suffix_order


def sorted_suffixes(tokens: list[int]) -> list[int]:
    """Python's lists compare as suffixes do, and its sort keeps equal ones in their order."""
    return sorted(range(len(tokens)), key=lambda at: tokens[at : at + DEPTH])


@given(st.integers(0, 3).flatmap(lambda most: st.lists(st.integers(0, most), max_size=120)))
def test_the_order_is_that_of_a_sort_of_the_suffixes(tokens: list[int]) -> None:
    assert suffix_order(np.array(tokens, np.uint16)).tolist() == sorted_suffixes(tokens)


@pytest.mark.parametrize("kind", [np.uint16, np.uint32])
def test_the_order_of_tokens_of_either_width(kind: type) -> None:
    tokens = np.random.default_rng(0).integers(0, np.iinfo(kind).max, 500).astype(kind)
    assert suffix_order(tokens).tolist() == sorted_suffixes(tokens.tolist())


def test_the_order_of_long_repetitions() -> None:
    """Longer than the sort looks: what is equal so far keeps its order."""
    tokens = [1, 2] * 40 + [1] * 90
    assert suffix_order(np.array(tokens, np.uint16)).tolist() == sorted_suffixes(tokens)
