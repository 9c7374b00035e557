"""Answers of earlier requests, and the index of them that drafts come from: bounded, and apart by salt."""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice, takewhile

from specdec.kernels.suffix import Index, suffix_index

MOST_SALTS = 256
"""Salts that answers are kept for; those of the one that was used least recently go first."""


class Answers:
    """First in, first out: when there are more than `max_tokens` tokens, the salt that has most loses the older half.

    Its index is made anew from what is left. That frees as many tokens as it reads, so a token still costs a constant
    time on average; and a salt that answers much takes nothing from the others.

    Args:
        max_tokens: of all salts together.
    """

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self._kept: OrderedDict[str, Texts] = OrderedDict()

    def __len__(self) -> int:
        """Tokens that are kept."""
        return sum(each.size for each in self._kept.values())

    @property
    def nbytes(self) -> int:
        """Memory of texts and indexes."""
        return sum(each.nbytes for each in self._kept.values())

    def index(self, salt: str) -> Index | None:
        """What the answers of this salt are looked up in; None if there are none."""
        kept = self._kept.get(salt)
        if kept is None:
            return None
        self._kept.move_to_end(salt)
        return kept.index

    def texts(self, salt: str) -> Iterator[Sequence[int]]:
        """The answers of this salt, oldest first."""
        return iter(self._kept[salt].texts if salt in self._kept else ())

    def add(self, salt: str, tokens: Sequence[int]) -> None:
        """Keeps an answer. One that nothing can follow in, of less than two tokens, is left out."""
        if len(tokens) < 2:
            return
        self._kept.setdefault(salt, Texts()).add(tokens)
        self._kept.move_to_end(salt)
        if len(self._kept) > MOST_SALTS:
            self._kept.popitem(last=False)
        while len(self) > self.max_tokens:
            largest = max(self._kept, key=lambda each: self._kept[each].size)
            self._kept[largest] = self._kept[largest].younger_half()


class Texts:
    """Texts, and what they are looked up in.

    Args:
        texts: the first ones.
    """

    def __init__(self, texts: Iterable[Sequence[int]] = ()) -> None:
        self.texts: deque[Sequence[int]] = deque()
        self.index, self.size = suffix_index(), 0
        for text in texts:
            self.add(text)

    @property
    def nbytes(self) -> int:
        """Memory of both."""
        return self.index.nbytes + 4 * self.size

    def add(self, tokens: Sequence[int]) -> None:
        """One more."""
        kept = array("i", tokens)
        self.index.extend(kept, fresh=True)
        self.texts.append(kept)
        self.size += len(kept)

    def younger_half(self) -> Texts:
        """The latest ones alone, at most half of the tokens."""
        return Texts(latest(self.texts, self.size // 2))


def latest(texts: Sequence[Sequence[int]], most: int) -> Iterator[Sequence[int]]:
    """The last texts, in their order, of no more than `most` tokens together."""
    ends = accumulate(len(text) for text in reversed(texts))
    count = sum(1 for _ in takewhile(lambda end: end <= most, ends))
    return islice(texts, len(texts) - count, None)
