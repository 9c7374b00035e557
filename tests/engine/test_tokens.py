"""What drafters see of a request's tokens."""

from __future__ import annotations

from array import array
from typing import Any

import pytest

from specdec.engine.tokens import TokenView


def test_a_view_reads_like_the_tokens_and_grows_with_them() -> None:
    tokens = [5, 6, 7]
    view = TokenView(tokens)
    before = view[-2:]
    tokens.append(8)
    assert [*view] == array("i", view).tolist() == tokens
    assert (len(view), view[-1], view.index(7), 6 in view) == (4, 8, 2, True)
    assert (before, view[1:]) == ((6, 7), (6, 7, 8))
    with pytest.raises(IndexError):
        view[4]


@pytest.mark.parametrize("change", ["view[0] = 1", "view.append(1)", "view[:].append(1)", "del view[0]"])
def test_nothing_can_be_written_to_it(change: str) -> None:
    known: dict[str, Any] = {"view": TokenView([5, 6])}
    with pytest.raises((TypeError, AttributeError)):
        exec(change, known)
    assert [*known["view"]] == [5, 6]
