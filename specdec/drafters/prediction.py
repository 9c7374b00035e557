"""Predicted outputs: the user says what the text will mostly be, and the draft is copied from there."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from specdec.drafters.base import Drafter, DraftRequest
from specdec.verify.tree import ROOT, DraftTree

PAYS = 0.1
"""A node that is reached less often costs more rows than it yields tokens."""
LONGEST_MATCH = 8
"""Tokens before a place that are compared."""
NEAR = 8
"""So many places behind the one where the text left the prediction are looked at for a single token."""
PIECES = (2, 4)
PLACES = 8
"""So many places before, and behind, the likeliest one at which the last 2, and the last 4, tokens are looked up."""
SURE = 4
"""Tokens that agree in a row where the text has come back for good."""
LONGEST_CHANGE = 8
"""Tokens of a change that can be made again."""
GUESSES, MOST_MISSES = 4, 2
"""For so many tokens after a change its end is guessed, before anything tells where it is: unless that often failed, or
nothing shows yet that the prediction is right."""
BYTES_A_TOKEN = 450
"""Of a prediction and the table of its pieces."""
RUNS = 16
"""Kinds of nodes by the tokens that agree before them."""
Change = tuple[tuple[int, ...], tuple[int, ...]]
"""A piece of the prediction, and what the answer has in its place."""


class PredictionDrafter(Drafter):
    """Copies the continuation of a text that the user predicts (OpenAI's "predicted outputs").

    A pointer follows the answer through `DraftRequest.prediction`. Where the answer leaves it, the pointer moves to the
    place that agrees with the last tokens best, the nearest of equals; until there is one, the draft guesses that one
    token was replaced, or some were inserted. The more often it was wrong, the more tokens must agree: a wholly wrong
    prediction is soon left alone. A change that was made twice, such as a new name of a variable, is made in the rest
    of the prediction too.

    The chance that the next token agrees after r that did, and m recent departures, is taken as (r + 1) / (r + 2 + m),
    Laplace's rule of succession; a draft ends where what is left of it is below `PAYS`. Requests without a prediction
    get no draft. State is O(tokens of the prediction and of the answer) for a running request.

    Args:
        num_draft_tokens: γ, most tokens of a draft.
        branches: guesses after a change that stand side by side; 1 proposes chains.

    Raises:
        ConfigError: if one of them is no integer from 1 on, or both make too large a draft.
    """

    name = "prediction"

    def __init__(self, num_draft_tokens: int = 16, branches: int = 3) -> None:
        super().__init__(num_draft_tokens, branches)
        self._branches = self.shape.widest
        self._readers: dict[int, _Reader] = {}

    def max_nodes(self, max_depth: int) -> int:
        """γ counts the tokens of all branches together."""
        return min(super().max_nodes(max_depth), self.num_draft_tokens)

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """The continuation of each request's prediction; empty where there is none, or it is not to be trusted."""
        return [self._propose(request) if request.prediction else DraftTree() for request in requests]

    def memory(self) -> int:
        """See `Drafter.memory`; an estimate."""
        return sum(BYTES_A_TOKEN * len(reader.text) for reader in self._readers.values())

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """Drops the request's pointer."""
        self._readers.pop(request_id, None)

    def _propose(self, request: DraftRequest) -> DraftTree:
        reader = self._readers.get(request.request_id)
        if reader is None:
            reader = _Reader(list(request.prediction), request.num_prompt_tokens)
            self._readers[request.request_id] = reader
        reader.read(request.tokens)
        branches = [reader.ahead(place, run, rank) for rank, (place, run) in enumerate(reader.places(self._branches))]
        return _trie(branches, min(self.num_draft_tokens, request.max_depth), self.num_draft_tokens)


@dataclass(frozen=True)
class _Node:
    """A token that may come next, how likely it is once all before it have come, and its kind (see `DraftTree`)."""

    token: int
    chance: float
    kind: int


@dataclass
class _Reader:
    """Follows an answer through its prediction. What it holds is a function of the answer's tokens.

    Args:
        text: the prediction; changes that were made twice are made in what lies ahead.
        num_read: tokens that have been read, the prompt's at first.
    """

    text: list[int]
    num_read: int
    at: int = 0
    """Place of the token that comes next; of a lost answer, the place where it left."""
    run: int = 0
    """Tokens before `at` that agree."""
    lost: bool = False
    """Whether the answer has left the prediction and has not come back yet."""
    misses: int = 0
    """Departures that were not made up for, by `SURE` tokens in a row each."""
    _home: int = 0
    """Last place at which the answer was surely right."""
    _left: int = 0
    """Tokens of prompt and answer when it left that place."""
    _first: int = field(init=False)
    _changes: dict[Change, int] = field(default_factory=dict)
    """Pieces that were replaced, by what, and the place behind the last one."""
    _places: dict[tuple[int, ...], list[int]] | None = None
    """The tokens of each piece of `PIECES` sizes → places behind them, ascending; made when it is first needed."""

    def __post_init__(self) -> None:
        self._first = self._left = self.num_read

    def read(self, tokens: Sequence[int]) -> None:
        """Takes notice of what has been committed since the last call."""
        for end in range(self.num_read + 1, len(tokens) + 1):
            if not self.lost and self.at < len(self.text) and self.text[self.at] == tokens[end - 1]:
                self.at += 1
                self.run += 1
            else:
                self._search(tokens, end)
        self.num_read = max(self.num_read, len(tokens))

    def places(self, most: int) -> list[tuple[int, int]]:
        """Where the answer may go on, likeliest first, each with the tokens that agree before it."""
        if not self.lost:
            return [(self.at, self.run)]
        away = self.num_read - self._left
        if self._home < SURE or away > GUESSES or self.misses > MOST_MISSES:
            return []
        replaced, inserted, as_many_replaced = self.at + 1, self.at, self.at + away
        return [(place, 0) for place in dict.fromkeys((replaced, inserted, as_many_replaced))][:most]

    def ahead(self, place: int, run: int, rank: int) -> Iterator[_Node]:
        """What the prediction says from a place on."""
        group = 8 + rank if self.lost else min(self.misses, 7)
        for index in range(place, len(self.text)):
            agreed = run + index - place
            chance = (agreed + 1) / (agreed + 2 + self.misses)
            yield _Node(self.text[index], chance, RUNS * min(group, 15) + min(agreed.bit_length(), RUNS - 1))

    def _search(self, tokens: Sequence[int], end: int) -> None:
        """The answer's last token is not what was expected: moves to the place that the last tokens speak for."""
        if not self.lost:
            self.lost = True
            self.misses = max(1, self.misses + 1 - self.run // SURE)
            if self.run >= SURE or self.run == self.at:
                self._home, self._left = self.at, end - 1
            self.at = self._home
        best = max(self._found(tokens, end), default=None)
        if best is not None:
            run, _, place = best
            self._learn(self.text[self.at : place - run], tokens[self._left : end - run], place)
            self.at, self.run, self.lost = place, run, False

    def _found(self, tokens: Sequence[int], end: int) -> Iterator[tuple[int, int, int]]:
        """Places that agree with enough of the last tokens: how many do, how near it is, which."""
        ahead = range(self.at + 1, min(self.at + NEAR, len(self.text)) + 1)
        expected = self.at + end - self._left
        near = [place for place in ahead if self.text[place - 1] == tokens[end - 1]]
        for place in {*near, *self._behind(tokens[max(self._first, end - max(PIECES)) : end], expected)}:
            agreed = self._agreed(tokens, end, place)
            if agreed >= min(LONGEST_MATCH, self.misses + (place not in ahead)):
                yield agreed, -abs(place - expected), place

    def _behind(self, last: Sequence[int], expected: int) -> list[int]:
        """Places behind the answer's last tokens, those nearest to where it is expected."""
        if self._places is None:
            self._places = {}
            for size in PIECES:
                for place in range(size, len(self.text) + 1):
                    self._places.setdefault(tuple(self.text[place - size : place]), []).append(place)
        found: list[int] = []
        for size in PIECES:
            if size <= len(last) and (places := self._places.get(tuple(last[-size:]))):
                split = bisect_left(places, expected)
                found += places[max(0, split - PLACES) : split + PLACES]
        return found

    def _agreed(self, tokens: Sequence[int], end: int, place: int) -> int:
        """How many of the answer's last tokens stand before the place, at most `LONGEST_MATCH`."""
        most = min(LONGEST_MATCH, end - self._first, place)
        return next((n for n in range(most) if self.text[place - 1 - n] != tokens[end - 1 - n]), most)

    def _learn(self, old: Sequence[int], new: Sequence[int], place: int) -> None:
        """A piece of the prediction was replaced; if so was the last one like it, all later ones are."""
        if not (0 < len(old) <= LONGEST_CHANGE and 0 < len(new) <= LONGEST_CHANGE):
            return
        change = tuple(old), tuple(new)
        if change in self._changes:
            between = self.text[self._changes[change] : self.at]
            if _replaced(between, *change) == between:
                self.text[place:] = _replaced(self.text[place:], *change)
                self._places = None
        self._changes[change] = place


def _replaced(text: Sequence[int], old: tuple[int, ...], new: tuple[int, ...]) -> list[int]:
    """The text with one piece in place of another, wherever that stands."""
    out: list[int] = []
    place = 0
    while place < len(text):
        here = text[place] == old[0] and tuple(text[place : place + len(old)]) == old
        out.extend(new if here else text[place : place + 1])
        place += len(old) if here else 1
    return out


def _trie(branches: Iterable[Iterable[_Node]], depth: int, most: int) -> DraftTree:
    """The branches as one draft of at most so many nodes, each as long as it pays."""
    nodes: dict[tuple[int, int], int] = {}
    drafted: list[_Node] = []
    for branch in branches:
        parent, survival = ROOT, 1.0
        for node in islice(branch, depth):
            survival *= node.chance
            if survival < PAYS or len(drafted) == most:
                break
            number = nodes.setdefault((parent, node.token), len(drafted))
            if number == len(drafted):
                drafted.append(node)
            parent = number
    return DraftTree(
        tuple(node.token for node in drafted),
        tuple(parent for parent, _ in nodes),
        kinds=tuple(node.kind for node in drafted),
        chances=tuple(node.chance for node in drafted),
    )
