"""Where a text stands: behind its committed tokens, or behind drafted ones that were asked about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Place:
    """A node of the tree of texts that were asked about. Its root stands behind the committed tokens.

    What is known of a place follows from its tokens alone, so it is never worked out twice: when a drafted token is
    committed, its place becomes the root.

    Args:
        above: the place before the last token; None at the root.
        token: the last token.
        over: whether the text has ended here, so that anything may follow.
    """

    __slots__ = ("above", "below", "depth", "fits", "free", "over", "row", "run", "token")

    def __init__(self, above: Place | None = None, token: int = -1, over: bool = False) -> None:
        self.above, self.token, self.over = above, token, over
        self.depth: int = 0 if above is None else above.depth + 1
        """Tokens from the first root on: how many lie between two places is their difference."""
        self.below: dict[int, Place] = {}
        self.fits = above is not None and above.over
        """Whether the last token is known to be allowed where it stands."""
        self.row: NDArray[np.bool_] | None = None
        """bool [V]: which tokens may follow, if that is known. Not to be written to."""
        self.run: Sequence[int] = ()
        """Tokens of the text that alone may follow, if some are known."""
        self.free: bool | None = None
        """Whether more may follow than is worth drafting, if that is known."""

    def path(self) -> list[int]:
        """Tokens from the root to here."""
        tokens, place = list[int](), self
        while place.above is not None:
            tokens.append(place.token)
            place = place.above
        return tokens[::-1]

    def twin(self) -> Place:
        """A root with all that is known of what follows this one, of which it is no part."""
        twin = Place(over=self.over)
        twin.row, twin.run, twin.free = self.row, self.run, self.free
        return twin


def way(here: Place, there: Place) -> tuple[int, list[int]]:
    """From one place of a tree to another: tokens to take back, and tokens to go on with then."""
    back, down = 0, list[int]()
    while here is not there:
        if here.depth >= there.depth:
            assert here.above is not None, "Both are in one tree."
            here, back = here.above, back + 1
        else:
            assert there.above is not None, "Both are in one tree."
            down.append(there.token)
            there = there.above
    return back, down[::-1]
