"""The stores that ship."""

from __future__ import annotations

from pathlib import Path

from specdec.stores.file import Store, StoreError, fitting, read
from specdec.stores.vocabulary import Vocabulary

STOCKED = "stock"
"""Stands for the texts that ship, where the path of a store may be given."""
STOCK = Path(__file__).with_name("stock.store")
"""Answers of SmolLM2-135M-Instruct to prompts of its own, made by `experiments/stock_store.py` (docs/stores.md)."""
STOCK_ROWS = Path(__file__).with_name("stock_rows.store")
"""Of each token the likeliest successors by SmolLM2-135M-Instruct, as if it were the first of a text: as many texts as
tokens, in their order, made by `experiments/stock_rows.py`."""


def opened(store: str, vocabulary: Vocabulary) -> Store | None:
    """A store by the path of its file; or the texts that ship, and None where the target has another tokenizer.

    Raises:
        StoreError: if it cannot be read, or a file other than ours was made for another tokenizer.
    """
    if store != STOCKED:
        return read(Path(store), vocabulary)
    stock = read(STOCK)
    try:
        return fitting(stock, vocabulary)
    except StoreError:
        return None
