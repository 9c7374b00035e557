"""A model that is a table of fractions, and whose cache holds the tokens themselves."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specdec.cache import KVLayout, KVPool
from specdec.models.base import PassOutput, Wants
from specdec.models.batch import RaggedBatch, SequenceRows
from specdec.proof.exact import Conditional, Tokens


class TableModel:
    """log p(x | text) as logits. The text before a row is read from the slots that the batch gives: a wrong slot is a
    wrong text.

    Args:
        law: text → distribution of the next token.
        vocab_size: V.
        max_context: of a text.
    """

    hidden_size = 1
    judges_on_device = False

    def __init__(self, law: Conditional, vocab_size: int, name: str = "table", max_context: int = 64) -> None:
        self.law, self.vocab_size, self.name, self.max_context = law, vocab_size, name, max_context
        self.kv_layout = KVLayout(num_layers=1, num_kv_heads=1, head_dim=1)
        self.rows: list[int] = []
        """Rows of each pass."""

    def run(self, batch: RaggedBatch, pool: KVPool, wants: Wants = Wants()) -> PassOutput:  # noqa: B008 - frozen
        """See `CausalLM.run`."""
        cells = pool.keys[0][:, 0, 0]
        cells[batch.write_slots] = batch.token_ids.to(cells.dtype)
        texts = [text for part in batch.parts for text in _texts(part, cells)]
        self.rows.append(len(texts))
        wanted = [self.law(texts[row]) for row in batch.logit_rows.tolist()]
        return PassOutput(torch.tensor([[float(mass) for mass in row] for row in wanted]).log())

    def embed(self, tokens: Sequence[int]) -> Tensor:
        """Nothing asks for it."""
        raise NotImplementedError

    def truncated(self, num_layers: int) -> TableModel:
        """Nothing asks for it."""
        raise NotImplementedError


def _texts(part: SequenceRows, cells: Tensor) -> list[Tokens]:
    """The text up to each row that is run, its own token included."""
    written = part.slots[: part.committed + part.first + len(part.tokens)]  # what lies behind them is anything
    stored = [int(token) for token in cells[written].tolist()]
    before, rows = stored[: part.committed], stored[part.committed :]
    texts: list[Tokens] = []
    for row in range(part.first, part.first + len(part.tokens)):
        path: list[int] = []
        while row >= 0:
            path.append(rows[row])
            row = row - 1 if part.parents is None else part.parents[row]
        texts.append((*before, *reversed(path)))
    return texts
