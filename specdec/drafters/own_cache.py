"""Keys and values of a draft model whose texts are not the target's, token by token: block tables of its own."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from specdec.cache import KVPool, PagedCache
from specdec.cache.runs import common
from specdec.errors import OutOfBlocksError
from specdec.models.base import CausalLM
from specdec.verify.tree import ROOT

BLOCK_SIZE = 16
MOST_BYTES = 1 << 30
"""Of all keys and values together."""


@dataclass
class _Run:
    """What has been run of one sequence: the tokens that are kept, and a tree of rows after them."""

    kept: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Of each row the row that it follows; `ROOT` for the last token that is kept."""
    children: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    """(row, token) → the rows of that token below it."""

    def add(self, token: int, parent: int) -> None:
        """Adds a row."""
        self.children.setdefault((parent, token), []).append(len(self.parents))
        self.parents.append(parent)

    def path(self, tokens: Sequence[int]) -> list[int]:
        """The rows of these tokens, as far as they have been run. A token may have been drawn twice, and another one
        below each."""
        reached = [ROOT]
        for token in tokens:
            further = [child for row in reached for child in self.children.get((row, token), ())]
            if not further:
                break
            reached = further
        rows, row = list[int](), reached[0]
        while row != ROOT:
            rows.append(row)
            row = self.parents[row]
        return rows[::-1]


class OwnCache:
    """Serves a draft model that reads the requests' texts in tokens of its own.

    The target's block tables do not fit such texts, and what is accepted need not be what was drafted, since a text
    that has grown may be told in other tokens. So nothing is taken from verdicts: of what has been run, a text and the
    tree drafted after it, that is kept with which the next text begins.

    Where blocks are short, the sequence that began longest ago is dropped, and run anew when it comes again: what is
    drafted for it does not change.

    Args:
        model: whose keys and values they are.
        num_slots: so many tokens are kept, but no more than 1 GiB, and no less than one full context and a draft.
        most_nodes: of a draft.
    """

    def __init__(self, model: CausalLM, num_slots: int, most_nodes: int) -> None:
        affordable = min(num_slots, MOST_BYTES // model.kv_layout.bytes_per_token())
        blocks = -(-max(affordable, model.max_context + most_nodes) // BLOCK_SIZE)
        self._cache = PagedCache(model.kv_layout, blocks, BLOCK_SIZE)
        self._run: dict[int, _Run] = {}
        """The sequence that began last is the last."""

    @property
    def pool(self) -> KVPool:
        """Where the model's keys and values are."""
        return self._cache.target

    def memory(self) -> int:
        """Bytes of all slots."""
        return self.pool.num_slots * self.pool.layout.bytes_per_token()

    def begin(self, seq: int, text: Sequence[int], num_nodes: int, busy: Container[int] = ()) -> tuple[int, Tensor]:
        """Keeps what has been run of a text, but for its last token, and reserves rows for the rest and for a draft.

        Args:
            seq: the sequence; it need not be known.
            text: its tokens, at least one.
            num_nodes: of the draft.
            busy: sequences that may not be dropped for it.

        Returns:
            How many of the text's tokens are kept, and the slots of all rows, int64 [text + nodes].

        Raises:
            OutOfBlocksError: if there is no room beside those that are busy.
        """
        if seq not in self._run:
            self._cache.add(seq)
            self._run[seq] = _Run()
        run, known = self._run.pop(seq), text[:-1]
        kept = common(run.kept, known)
        if kept < len(run.kept):
            self._cache.truncate(seq, kept)
        else:
            rows = run.path(known[kept:])
            self._cache.commit_path(seq, rows)
            kept += len(rows)
        self._run[seq] = _Run(list(text[:kept]))
        self._reserve(seq, len(text) - kept + num_nodes, busy)
        return kept, self._cache.slots(seq)

    def ran(self, seq: int, text: Sequence[int], nodes: Sequence[int], parents: Sequence[int]) -> None:
        """Notes that the rest of the text has been run since `begin`, and some nodes of the draft.

        Args:
            seq: the sequence.
            text: as it was given to `begin`.
            nodes: tokens of the nodes that were run: the first ones of the tree.
            parents: of these nodes, `ROOT` for children of the text's last token.
        """
        run = self._run[seq]
        rest = text[len(run.kept) :]
        for row, token in enumerate(rest):
            run.add(token, row - 1)
        for token, parent in zip(nodes, parents, strict=True):
            run.add(token, len(rest) + parent)

    def drop(self, seq: int) -> None:
        """Lets go of a sequence. Unknown ones are ignored."""
        if self._run.pop(seq, None) is not None:
            self._cache.free(seq)

    def _reserve(self, seq: int, rows: int, busy: Container[int]) -> None:
        while True:
            try:
                return self._cache.reserve(seq, rows)
            except OutOfBlocksError:
                oldest = next((other for other in self._run if other != seq and other not in busy), None)
                if oldest is None:
                    raise
                self.drop(oldest)
