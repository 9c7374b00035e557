"""Lookahead decoding: rows that are no candidates make the n-grams that later steps guess with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from specdec.checks import flag, take, whole
from specdec.drafters.base import Drafter, DraftRequest, Needs, Outcome, TargetHandle
from specdec.drafters.sizes import MOST_NODES
from specdec.errors import ConfigError
from specdec.verify.tree import ROOT, DraftTree, TreeShape

SIZE = whole(1, 64)
WINDOW_KIND = 512
"""Kinds from here on are those of the window's nodes, by their depth; below, those of guesses."""
BYTES_A_TOKEN = 120
"""Of the n-grams that are kept."""
Ngram = tuple[int, ...]


class LookaheadDrafter(Drafter):
    """Jacobi iterations over a window beside the text yield n-grams; those that begin with the last token are guessed
    (Fu et al. 2024, arXiv 2402.02057).

    The window has N - 1 rows, which the paper calls levels, and W columns. The token of level l in column i stands
    i + l places after the last committed token. Beside the text it sees level 0 of the columns up to i, and its own
    column's levels below l. As a draft that is a chain of level 0, with each column's other levels as a branch below
    its place in the chain; column 0 hangs on the last token, which is its level 0. What the target says after the last
    level of a column ends an n-gram, and is a token of the next row. So each pass yields W n-grams, whether or not a
    guess is accepted.

    The window needs whole passes: a policy that cuts what is unlikely to be accepted cuts the window, which then stands
    still. A request that begins anew begins with a new window, so its drafts depend on its neighbours (`shares`).

    Differences from the authors' program: all levels start with tokens of the text, in place of passes that fill them
    one by one; window tokens that happen to be right are accepted.

    Args:
        window: W, columns.
        ngram: N, tokens of an n-gram.
        guesses: G, n-grams that are kept for each first token, the latest ones, and guessed.
        pool_from_prompt: whether the prompt's own n-grams are guessed, too.

    Raises:
        ConfigError: unless W and G are from 1 to 64, N from 2 to 64, and the draft is not too large.
    """

    name = "lookahead"
    shares = True

    def __init__(self, window: int = 3, ngram: int = 3, guesses: int = 2, pool_from_prompt: bool = True) -> None:
        self.window, self.guesses = take("window", window, SIZE), take("guesses", guesses, SIZE)
        self.ngram: int = take("ngram", ngram, whole(2, 64))
        self.pool_from_prompt = take("pool_from_prompt", pool_from_prompt, flag())
        shape = self._largest()
        if len(shape) > MOST_NODES:
            raise ConfigError(
                f"window = {window}, ngram = {ngram} and guesses = {guesses} make drafts of {len(shape)} tokens. A "
                f"draft has at most {MOST_NODES}: ask for less."
            )
        super().__init__(shape=shape)
        self._windows: dict[int, _Window] = {}

    def bind(self, target: TargetHandle) -> Needs:
        """Asks for the argmax after every row."""
        return Needs(top=1)

    def propose(self, requests: Sequence[DraftRequest]) -> list[DraftTree]:
        """The n-grams that begin with the last token, and the window."""
        return [self._propose(request) for request in requests]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Moves the windows on."""
        for outcome in outcomes:
            window = self._windows.get(outcome.request_id)
            if window is not None and outcome.drafter == self.name and outcome.top is not None:
                window.advance(outcome.tail[-1], _Said(outcome.tree, outcome.top[:, 0].tolist()))

    def forget(self, request_id: int) -> None:
        """Drops the request's window and n-grams."""
        self._windows.pop(request_id, None)

    def end(self, request_id: int, tokens: Sequence[int]) -> None:
        """See `forget`."""
        self._windows.pop(request_id, None)

    def memory(self) -> int:
        """See `Drafter.memory`; an estimate."""
        kept: int = sum(len(ngrams) for window in self._windows.values() for ngrams in window.pool.values())
        return BYTES_A_TOKEN * self.ngram * kept

    def _propose(self, request: DraftRequest) -> DraftTree:
        window = self._windows.get(request.request_id)
        if window is None:
            window = _Window.of(request.tokens, self.window, self.ngram, self.guesses)
            if self.pool_from_prompt:
                window.learn(request.tokens)
            self._windows[request.request_id] = window
        depth = request.max_depth
        guessed = [ngram[:depth] for ngram in window.pool.get(request.tokens[-1], [])]
        seen = [path for path in window.paths() if len(path) <= depth]
        tree = DraftTree.from_chains([*guessed, *seen])
        of_guesses = len(DraftTree.from_chains(guessed))
        kinds = (depth + WINDOW_KIND * (node >= of_guesses) for node, depth in enumerate(tree.depths))
        return DraftTree(tree.tokens, tree.parents, kinds=tuple(kinds))

    def _largest(self) -> TreeShape:
        """A draft whose branches have nothing in common but the window's chain."""
        parents: list[int] = []

        def chain(parent: int, length: int) -> None:
            for _ in range(length):
                parents.append(parent)
                parent = len(parents) - 1

        chain(ROOT, self.window - 1)
        for column in range(self.window):
            chain(column - 1, self.ngram - 2)  # below level 0 of its column, which is the root for the first
        for _ in range(self.guesses):
            chain(ROOT, self.ngram - 1)
        return TreeShape(tuple(parents))


@dataclass(frozen=True)
class _Said:
    """What the target says after each node of a draft.

    Args:
        tree: the draft.
        argmax: of the root, then of every node.
    """

    tree: DraftTree
    argmax: Sequence[int]

    def after(self, paths: Sequence[Ngram]) -> list[int] | None:
        """The target's tokens after these branches; None if one was not run."""
        nodes = {key: node for node, key in enumerate(zip(self.tree.parents, self.tree.tokens, strict=True))}
        found: list[int] = []
        for path in paths:
            node = ROOT
            for token in path:
                if (node, token) not in nodes:
                    return None
                node = nodes[node, token]
            found.append(self.argmax[node + 1])
        return found


@dataclass
class _Window:
    """One request's window, and the n-grams that came of it.

    Args:
        rows: level 0 of the columns after the first, W - 1 tokens; then the other N - 2 levels of all W columns.
        most: n-grams that are kept for a first token.
        pool: first token → the N - 1 tokens after it, latest first.
        unfilled: passes until the tokens of an n-gram, but for the first, are all the target's.
    """

    rows: list[list[int]]
    most: int
    unfilled: int
    pool: dict[int, list[Ngram]] = field(default_factory=dict)

    @classmethod
    def of(cls, tokens: Sequence[int], width: int, ngram: int, most: int) -> _Window:
        """Filled with tokens from all over the text."""
        sizes = [width - 1] + [width] * (ngram - 2)
        total, used, rows = sum(sizes), 0, []
        for size in sizes:
            rows.append([tokens[(used + i) * len(tokens) // total] for i in range(size)])
            used += size
        return cls(rows, most, unfilled=ngram - 1)

    def learn(self, text: Sequence[int]) -> None:
        """Keeps every n-gram of a text."""
        followers = len(self.rows)
        for place in range(len(text) - followers):
            self._keep(text[place], tuple(text[place + 1 : place + 1 + followers]))

    def paths(self) -> list[Ngram]:
        """For each column the tokens on the way to its last level."""
        first, *others = self.rows
        return [(*first[:column], *(row[column] for row in others)) for column in range(len(first) + 1)]

    def advance(self, last: int, said: _Said) -> None:
        """The oldest level goes, and what the target said becomes the newest.

        Args:
            last: the last committed token, under which the draft hung.
            said: of the draft that was run; if it lacked a part of the window, nothing happens.
        """
        results = said.after(self.paths())
        if results is None:
            return
        first, *others = self.rows
        self.unfilled = max(0, self.unfilled - 1)
        if not self.unfilled:
            for column, (head, result) in enumerate(zip([last, *first], results, strict=True)):
                self._keep(head, (*(row[column] for row in others), result))
        newest, *rest = [*others, results]
        self.rows = [newest[1:], *rest]

    def _keep(self, head: int, followers: Ngram) -> None:
        known = self.pool.setdefault(head, [])
        if followers in known:
            known.remove(followers)
        known.insert(0, followers)
        del known[self.most :]
