"""What drafters keep between requests: texts as token ids, in one file that is checked when it is read."""

from specdec.stores.file import Store, StoreError, fitting, read, write
from specdec.stores.stock import STOCK, STOCK_ROWS, STOCKED, opened
from specdec.stores.vocabulary import Vocabulary

__all__ = [
    "STOCK", "STOCKED", "STOCK_ROWS", "Store", "StoreError", "Vocabulary", "fitting", "opened", "read", "write",
]  # fmt: skip
