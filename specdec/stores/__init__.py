"""What drafters keep between requests: texts as token ids, in one file that is checked when it is read."""

from pathlib import Path

from specdec.stores.file import Store, StoreError, fitting, read, write
from specdec.stores.vocabulary import Vocabulary

__all__ = ["STOCK", "STOCK_ROWS", "Store", "StoreError", "Vocabulary", "fitting", "read", "write"]

STOCK = Path(__file__).with_name("stock.store")
"""Answers of SmolLM2-135M-Instruct to prompts of its own, made by `experiments/stock_store.py` (docs/stores.md)."""
STOCK_ROWS = Path(__file__).with_name("stock_rows.store")
"""Of each token the likeliest successors by SmolLM2-135M-Instruct, as if it were the first of a text: as many texts as
tokens, in their order, made by `experiments/stock_rows.py`."""
